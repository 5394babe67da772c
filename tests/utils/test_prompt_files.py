"""Files of prompts: formats, encodings, ends of lines, limits; what is bad moves nothing else."""

from __future__ import annotations

import json
import os
import time

import pytest

from hart.utils import prompt_files, text_files
from hart.utils.prompt_files import read_prompt_file, read_prompt_text
from tests.product import product


@pytest.fixture
def read(tmp_path):
    """Line, fields and error of every row of a file with this content and ending."""

    def run(content: str | bytes, ending: str = ".txt") -> list[tuple]:
        file = tmp_path / f"prompts{ending}"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return [(row.line, row.error or row.fields) for row in read_prompt_file(file)]

    return run


def prompt(text: str) -> dict[str, str]:
    return {"prompt": text}


TWO = [(1, prompt("a fox")), (2, prompt("a cat"))]


@pytest.mark.parametrize(
    ("content", "ending", "rows"),
    [
        ("a fox\na cat", "", TWO),
        ("a fox\na cat\n", ".TXT", TWO),
        ('{"prompt": "a fox"}\n{"prompt": "a cat"}', ".jsonl", TWO),
        ('{"prompt": "a fox"}\n{"prompt": "a cat"}', ".ndjson", TWO),
        ('["a fox",\n {"prompt": "a cat"}]', ".json", TWO),
        ("prompt\na fox\na cat\n", ".csv", [(2, prompt("a fox")), (3, prompt("a cat"))]),
        (
            "seed\tprompt\n3\ta fox, red\n\ta cat\n",
            ".tsv",
            [(2, {"seed": "3", "prompt": "a fox, red"}), (3, prompt("a cat"))],
        ),
        (
            '\n\n[\r\n{"prompt": "a", "seed": 4}\r, "b"\n]\n',
            ".json",
            [(4, {"prompt": "a", "seed": 4}), (5, prompt("b"))],
        ),
    ],
)
def test_the_ending_says_how_a_file_is_read(read, content, ending, rows):
    assert read(content, ending) == rows


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_three_ends_of_lines_and_no_other(read, end, ending):
    texts = ["a\u2028b", "c\u2029d", "e"]
    if ending == ".jsonl":
        lines = [json.dumps(prompt(text), ensure_ascii=False) for text in texts]
    else:
        lines = texts
    first = 2 if ending == ".csv" else 1
    content = end.join(["prompt"] * (first - 1) + lines)
    assert read(content, ending) == [(n, prompt(text)) for n, text in enumerate(texts, first)]


def test_the_page_splits_as_a_file_does(read):
    text = " a\u2028b \r\n# no\n\n\u3000\nc\rd\x0be\n"
    rows = [(row.line, row.error or row.fields) for row in read_prompt_text(text)]
    assert rows == [(1, prompt("a\u2028b")), (5, prompt("c")), (6, "control character U+000B")]
    assert read(text) == rows


# --- encodings --------------------------------------------------------------------------------

UNICODE = "ein Fuchs\n狐狸\nлиса 🦊\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".json", ".csv"])
def test_utf8_with_or_without_mark_and_utf16_by_its_mark(read, encoding, ending):
    texts = UNICODE.split("\n")[:3]
    content = {
        ".txt": UNICODE,
        ".jsonl": "\n".join(json.dumps(prompt(text), ensure_ascii=False) for text in texts),
        ".json": json.dumps(texts, ensure_ascii=False),
        ".csv": f"prompt\n{UNICODE}",
    }[ending]
    assert [row[1] for row in read(content.encode(encoding), ending)] == list(map(prompt, texts))


def test_utf16_with_the_other_mark(read):
    assert read(b"\xfe\xff" + "狐狸\n".encode("utf-16-be")) == [(1, prompt("狐狸"))]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text", [UNICODE, "a", "лиса в лесу\nкот\n", "狐狸，雪\n花\n", "a fox\n" * 9]
)
def test_utf16_without_a_mark_is_reported(read, encoding, text):
    with pytest.raises(ValueError, match="seems to be UTF-16 text without a byte order mark"):
        read(text.encode(encoding))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a fox\n".encode("utf-32"), "UTF-32"),
        ("a fox\n".encode("utf-16")[:-1], "ends within a character"),
        (b"\xff\xfe", "no prompt in this file"),
    ],
)
def test_other_encodings_are_refused(read, content, said):
    with pytest.raises(ValueError, match=said):
        read(content)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"a\0cat", "control character U+0000"),
        (b"\0", "control character U+0000"),
        (b"\x0c", "control character U+000C"),
        (b"a\x1b[2J", "control character U+001B"),
        (b"a\x7f", "control character U+007F"),
        ("a\x85b".encode(), "control character U+0085"),
        (b"caf\xe9", "not UTF-8 text"),
        (b"\xed\xa0\x80", "not UTF-8 text"),
        (b"x" * (2**17 + 1), "the line has more than 131072 characters"),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv", ".jsonl"])
def test_a_line_that_is_no_text_is_told_and_moves_no_other(read, bad, reason, ending):
    head = b"prompt\n" if ending in (".csv", ".tsv") else b""
    wrap = b'{"prompt": "%s"}' if ending == ".jsonl" else b"%s"
    lines = b"\n".join(wrap % text for text in (b"a fox", bad, b"a dog"))
    first, second, third = read(head + lines + b"\n", ending)
    shift = len(head) > 0
    assert (first, third) == ((1 + shift, prompt("a fox")), (3 + shift, prompt("a dog")))
    assert second[0] == 2 + shift
    assert second[1].startswith(reason)


@pytest.mark.parametrize(
    "content", ["a\n\0\n", "ab\n\0\n", "a\n\0c\n", "ab\n\0c\nd\n", "a b\n\0\n"]
)
def test_a_stray_zero_in_a_short_file_is_a_control_character(read, content):
    assert (2, "control character U+0000") in read(content)


def test_half_a_surrogate_pair_in_utf16_spoils_its_own_line(read):
    content = "a\n".encode("utf-16") + b"\x00\xd8\n\x00" + "b\n".encode("utf-16-le")
    first, second, third = read(content)
    assert (first, third) == ((1, prompt("a")), (3, prompt("b")))
    assert second[1].startswith("not UTF-16 text")


def test_a_control_character_that_json_writes_out_is_one(read):
    rows = read('["a\\u0000", "b\\nc", "\\ud800"]', ".json")
    assert rows[:2] == [(1, "control character U+0000"), (1, prompt("b\nc"))]
    assert "not UTF-8 text" in rows[2][1]


def test_the_whole_of_a_text_names_the_line(tmp_path):
    file = tmp_path / "instruction.txt"
    for content, said in [(b"a\n\xff", "line 2: not UTF-8"), (b"a\r\nb\n\0", r"line 3: .*U\+0000")]:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            text_files.read_text(file)
    file.write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert text_files.read_text(file) == "a\r\nb\n"


# --- a mistake is not drawn -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "ending", "said"),
    [
        ("prompt,seed\na fox,1\n", ".txt", r"line 1: 'prompt,seed' is no prompt, but a header"),
        ("# c\n\nprompt\na fox\n", "", r"line 3: 'prompt' is no prompt, but a header"),
        ("Seed;Prompt\n1;a fox\n", ".txt", "a header as in CSV"),
        ("prompt\tseed\na fox\t1\n", ".txt", "a header as in CSV"),
        ('{"prompt": "a fox"}\n', ".txt", "but JSON"),
        ('[\n"a fox"]\n', ".txt", "but JSON"),
        ('["a fox"]\n', "", "but JSON"),
        ('[{"prompt": "a fox"},\n{"prompt": "a cat"}]', ".txt", "but JSON"),
        ('["a fox",\n"a cat"]', ".txt", "but JSON"),
        ('{"prompt":\n"a fox"}', ".txt", "but JSON"),
        ("id,prompt,style\n1,a fox,red\n", ".txt", "a header as in CSV"),
        ("[" * 100_000, ".txt", "but JSON"),
        ("a fox\n", ".json", "line 1: not JSON .expected an array"),
        ('{"prompt": "a fox"}\n', ".json", "line 1: not JSON .expected an array"),
        ('"a fox"', ".json", "expected an array"),
        ("", ".json", "expected an array"),
        ("[]", ".json", "no prompt in this file"),
        ('["a",\n"b', ".json", "line 2: not JSON .Unterminated string"),
        ('["a"\n"b"]', ".json", "line 2: not JSON .expected a comma"),
        ('["a",]', ".json", "line 1: not JSON"),
        ('["a"]\n\n["b"]', ".json", "line 3: not JSON .there is something behind"),
        ("[" * 100_000, ".json", "nested too deeply"),
        (f"[{'9' * 5000}]", ".json", "line 1: not JSON"),
        (b'["a",\n"\xff"]', ".json", "line 2: not UTF-8"),
        ("prompt,seed\na fox,1\n", ".tsv", "found 'prompt,seed'"),
        ("prompt\tseed\na fox\t1\n", ".csv", r"found 'prompt\\tseed'"),
        ("prompt;seed\na fox;1\n", ".csv", "found 'prompt;seed'"),
        ("a fox\na cat\n", ".csv", "must name the column prompt"),
        ("- a fox\n", ".yaml", "'.yaml' is unknown; known are .txt"),
        ("a fox\n", ".xlsx", "'.xlsx' is unknown"),
    ],
)
def test_another_format_than_the_ending_says_is_refused(read, content, ending, said):
    with pytest.raises(ValueError, match=said):
        read(content, ending)


@pytest.mark.parametrize(
    "text",
    [
        "[photo] a fox",
        '["red" fox]',
        '{"red" fox',
        "a prompt, a fox",
        "{a|b} fox",
        '"a fox"',
        "prompt engineering",
        "(a)",
    ],
)
def test_prompts_that_only_look_like_it_are_drawn(read, text):
    assert read(text) == [(1, prompt(text))]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("3", "expected an object, found int"),
        ("null", "expected an object, found NoneType"),
        ('["a"]', "expected an object, found list"),
        ('{"prompt": "a", "prompt": "b"}', "field 'prompt' comes twice"),
        ('{"prompt": "a", "sed": 1}', "unknown field 'sed'; known are prompt, seed, cache_preset"),
        ('{"prompt": {"prompt": "a"}}', "prompt must be a text"),
        ('""', "prompt is empty"),
    ],
)
def test_a_bad_value_of_an_array_moves_no_other(read, bad, reason):
    first, second, third = read(f'["a fox",\n{bad},\n"a dog"]', ".json")
    assert (first, third) == ((1, prompt("a fox")), (3, prompt("a dog")))
    assert second[0] == 2
    assert second[1].startswith(reason)


# --- CSV --------------------------------------------------------------------------------------

BAD_ROWS = {
    '"a cat,2': "not CSV (",
    'a cat",2': "not CSV (",
    '"a" cat,2': "not CSV (",
    'a "nice" cat,2': "not CSV (a quote within a cell",
    '""a cat",2': "not CSV (",
    "a cat": "1 cells, but the header has 2",
    "a, cat,2": "3 cells, but the header has 2",
    ",2": "prompt is empty",
}


@pytest.mark.parametrize("after", ["a dog,3\n", '"a dog",3\n', '"a ""dog""",3\na hen,"4"\n'])
@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_bad_row_of_csv_moves_no_other(read, bad, after):
    rows = read(f"prompt,seed\na fox,1\n{bad}\n{after}", ".csv")
    good = read(f"prompt,seed\na fox,1\na cat,2\n{after}", ".csv")
    assert [row for row in rows if row[0] != 3] == [row for row in good if row[0] != 3]
    assert len(rows) == len(good)
    assert rows[1][0] == 3
    assert rows[1][1].startswith(BAD_ROWS[bad])


@pytest.mark.parametrize("bad", [b"\xff", b"a\0b", b'""\xc3'])
def test_a_bad_line_of_a_cell_spoils_one_row(read, bad):
    rows = read(b'prompt,seed\n"a fox,\n' + bad + b'\nred",1\na cat,2\n', ".csv")
    assert [row[0] for row in rows] == [3, 5]
    assert rows[1][1] == {"prompt": "a cat", "seed": "2"}


def test_a_forgotten_quote_far_from_the_next_one_spoils_one_row(read):
    lines = ["prompt,seed", '"a fox,0', *(f"a cat,{n}" for n in range(1, 3000)), '"a dog",3000']
    rows = read("\n".join(lines), ".csv")
    assert len(rows) == 3001
    assert [row[0] for row in rows if isinstance(row[1], str)] == [2]
    assert rows[-1] == (3002, {"prompt": "a dog", "seed": "3000"})


def test_a_cell_in_quotes_may_have_several_lines(read):
    rows = read('prompt,seed\n"a fox,\n""red""\n",1\n\na cat,2\n', ".csv")
    assert rows == [
        (2, {"prompt": 'a fox,\n"red"\n', "seed": "1"}),
        (6, {"prompt": "a cat", "seed": "2"}),
    ]


# --- limits -----------------------------------------------------------------------------------


def refused_within_a_second(file, said: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=said):
        list(read_prompt_file(file))
    assert time.process_time() - start < 1


@product(1, ending=["", ".jsonl", ".json", ".csv"])
def test_a_line_of_100_megabytes_is_refused_at_once(tmp_path, ending):
    file = tmp_path / f"prompts{ending}"
    with file.open("wb") as out:
        out.writelines(b"x" * 10**6 for _ in range(100))
    refused_within_a_second(file, "expected at most 67108864 bytes, found 100000000")


@product(1, ending=[".csv", ".jsonl", ".txt"])
def test_a_long_line_below_the_size_of_a_file_is_refused_at_once(tmp_path, ending):
    file = tmp_path / f"prompts{ending}"
    file.write_bytes(b"prompt\n" * (ending == ".csv") + b"x" * 60_000_000 + b"\n")
    start = time.process_time()
    (row,) = read_prompt_file(file)
    assert time.process_time() - start < 1
    assert row.error == "the line has more than 131072 characters"


def test_too_many_lines_are_refused_at_once(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\n" * 60_000_000)
    refused_within_a_second(file, "more than 1000000 lines")


def test_too_many_values_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_files, "MAX_PROMPTS", 2)
    file = tmp_path / "prompts.json"
    file.write_text('["a", "b", "c"]')
    with pytest.raises(ValueError, match="more than 2 prompts"):
        list(read_prompt_file(file))


def test_a_prompt_of_an_array_has_the_limit_of_a_line(read):
    rows = read(json.dumps(["x" * 2**17, "x" * (2**17 + 1)]), ".json")
    assert len(rows[0][1]["prompt"]) == 2**17
    assert rows[1][1] == "prompt has more than 131072 characters"


def test_what_never_ends_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    refused_within_a_second(tmp_path / "pipe", "expected a regular file, found a pipe")
    refused_within_a_second(tmp_path / "zero.txt", "expected a regular file, found a device")
    refused_within_a_second(tmp_path, "expected a regular file, found a folder")
    with pytest.raises(OSError, match="loop"):
        list(read_prompt_file(tmp_path / "loop"))
