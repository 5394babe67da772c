"""Files of prompts: what a line asks for, and which lines are bad."""

from __future__ import annotations

import json

import pytest

from hart.batch.jobs import Job, plan_batches, read_jobs


@pytest.fixture
def read(tmp_path):
    def run(content: str | bytes, suffix: str, **options):
        file = tmp_path / f"prompts{suffix}"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_jobs(file, **options)

    return run


def test_text_is_one_prompt_per_line_without_comments(read):
    found = read("\ufeffa fox\n\n# no\n  a cat \r\n", ".txt", seed=5)
    assert found.jobs == [Job(0, 1, "a fox", 5), Job(1, 4, "a cat", 6)]
    assert found.bad == []


def test_jsonl_names_prompt_seed_and_preset(read):
    found = read(
        '{"prompt": "a fox"}\n{"prompt": "a cat", "seed": 9, "cache_preset": "original"}\n',
        ".jsonl",
    )
    assert found.jobs == [Job(0, 1, "a fox", 0), Job(1, 2, "a cat", 9, "original")]


def test_csv_has_a_header_and_keeps_commas_and_lines_in_quotes(read):
    found = read('seed,prompt\n7,"a fox,\nred"\n,a cat\n\n3,a dog,x\n,"two\n', ".csv")
    assert found.jobs == [Job(0, 2, "a fox,\nred", 7), Job(1, 4, "a cat", 1)]
    assert [(bad.line, bad.reason) for bad in found.bad] == [
        (6, "3 cells, but the header has 2"),
        (7, "not CSV (unexpected end of data)"),
    ]


def test_several_images_of_a_line_have_seeds_in_a_row(read):
    found = read('{"prompt": "a", "seed": 9}\n{"prompt": "b"}\n', ".jsonl", images_per_prompt=2)
    assert [(job.index, job.seed) for job in found.jobs] == [(0, 9), (1, 10), (2, 2), (3, 3)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8"),
        ("{}", "prompt must be a text"),
        ('{"prompt": "\\ud800"}', "not UTF-8 text"),
        ('{"prompt": "a", "seed": -1}', "seed must be an integer from 0, got -1"),
        ('{"prompt": "a", "seed": 1.5}', "seed must be an integer"),
        ('{"prompt": "a", "seed": 9223372036854775808}', "below 2**63"),
        ('{"prompt": "a", "cache_preset": "fast"}', "got 'fast'"),
        ('{"prompt": "a", "cache_preset": ["fast"]}', "cache_preset must be one of"),
        ('{"prompt": "a", "sed": 1}', "unknown field 'sed'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_line_is_named_and_moves_no_other_image(read, line, reason):
    line = line.encode() if isinstance(line, str) else line
    found = read(b'{"prompt": "a fox"}\n' + line + b'\n{"prompt": "a cat"}\n', ".jsonl")
    assert found.jobs == [Job(0, 1, "a fox", 0), Job(2, 3, "a cat", 2)]
    (bad,) = found.bad
    assert bad.line == 2
    assert reason in bad.reason


def test_batches_hold_one_configuration_each_and_follow_the_file(read):
    presets = [None, "original", None, None, "original"]
    lines = [json.dumps({"prompt": "a", "cache_preset": preset}) for preset in presets]
    batches = plan_batches(read("\n".join(lines), ".jsonl").jobs, 2)
    assert [[job.index for job in batch] for batch in batches] == [[0, 2], [1, 4], [3]]


def test_for_classes_a_prompt_is_a_number(read):
    found = read("207\na cat\n88\n-1\n\u0663\n", ".txt", for_classes=True)
    assert found.jobs == [Job(0, 1, "207", 0), Job(2, 3, "88", 2)]
    assert [bad.reason for bad in found.bad] == [
        f"prompt must be the number of a class, got {text!r}" for text in ("a cat", "-1", "\u0663")
    ]
