"""``hart generate``, ``hart batch`` and the page read the same prompts."""

from __future__ import annotations

import json

import pytest

from hart.batch.jobs import read_jobs
from hart.cli.prompts import read_prompts_file
from hart.web.requests import read_prompts

TEXTS = ["a fox", "a\u2028b", "狐狸, red"]


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".txt", "\r".join(TEXTS)),
        ("", "\r\n\r\n".join(TEXTS) + "\n# no\n"),
        (".jsonl", "\n".join(json.dumps({"prompt": text}) for text in TEXTS)),
        (".json", json.dumps(TEXTS, ensure_ascii=False)),
        (".csv", 'prompt\na fox\na\u2028b\n"狐狸, red"\n'),
        (".tsv", "prompt\tseed\na fox\t\na\u2028b\t\n狐狸, red\t\n"),
    ],
)
def test_all_commands_read_the_same_prompts(tmp_path, ending, content):
    file = tmp_path / f"prompts{ending}"
    file.write_bytes(content.encode("utf-16"))
    assert read_prompts_file(file) == TEXTS
    assert [job.prompt for job in read_jobs(file).jobs] == TEXTS
    if ending in ("", ".txt"):
        assert read_prompts(content, 3) == TEXTS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": "a"}\n{"prompt": "b", "seed": 3}\n', "line 2: only `hart batch` takes seed"),
        ('{"prompt": "a", "cache_preset": "original"}\n', "line 1: only `hart batch` takes seed"),
        ('{"prompt": "a"}\n{"prompt"}\n{}\n', r"line 2: not JSON .* \(and 1 more bad rows\)"),
        ('{"prompt": "a"}\n{"prompt": "a\\u0000"}\n', r"line 2: control character U\+0000$"),
    ],
)
def test_generate_draws_nothing_of_a_file_with_a_bad_row(cli, tmp_path, content, said):
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_prompts_file(file)
    assert f"{file}, line " in cli.refuse("--prompts_file", file, prompts=False)


def test_rows_without_seeds_of_their_own_may_name_the_column(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a", "seed": null, "cache_preset": null}\n')
    assert read_prompts_file(file) == ["a"]


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\0"])
def test_control_characters_are_refused_by_line_on_the_page_too(end):
    with pytest.raises(ValueError, match=rf"Line 2: control character U\+00{ord(end):02X}"):
        read_prompts(f"a fox\na{end}b\n", 9)


def test_an_instruction_is_read_with_the_same_care(cli, tmp_path):
    file = tmp_path / "instruction.txt"
    file.write_bytes(b"draw\n\0\n")
    assert f"{file}, line 2: control character U+0000" in cli.refuse("--system_prompt_file", file)
    assert "found a device" in cli.refuse("--system_prompt_file", "/dev/zero")
