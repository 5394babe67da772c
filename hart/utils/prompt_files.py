"""Reading prompts: one reader for ``hart generate``, ``hart batch`` and the page.

A file's ending names its format, and content of another format is an error, so that nothing is
drawn that was not meant as a prompt:

========================== ==================================================================
ending                     content
========================== ==================================================================
``.txt``, ``.text``, none  one prompt per line, but for empty lines and lines that start with #
``.jsonl``, ``.ndjson``    an object per line, with fields of :data:`FIELDS`
``.json``                  one array of prompts or such objects
``.csv``, ``.tsv``         a header with these names, and a row per prompt
========================== ==================================================================

A bad row is told by its line and keeps its place, so that it moves no other row.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hart.utils.errors import shown
from hart.utils.text_files import (
    MAX_CHARACTERS,
    MAX_LINE_BYTES,
    Text,
    has_control_characters,
    line_at,
    refuse_control_characters,
)

FIELDS = ("prompt", "seed", "cache_preset")
MAX_PROMPTS = 1_000_000
MAX_ROW_LINES = 100
"""Lines that one row of CSV may have; a quote that is still open then was forgotten."""

_JSON_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class PromptRow:
    """What a file says about one prompt.

    Attributes:
        line: where it starts, or is wrong, from 1.
        fields: those of :data:`FIELDS` that it has; ``prompt`` is checked, the others are not.
        error: why it cannot be drawn, None if it can.
    """

    line: int
    fields: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def read_prompt_file(file: Path) -> Iterator[PromptRow]:
    """The rows of a file, good and bad ones, in their order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file, too large, without a prompt, in an unknown encoding or
            format, or in another format than its ending says.
    """
    ending = file.suffix.lower()
    if ending not in _READERS:
        known = ", ".join(filter(None, _READERS))
        raise ValueError(f"{file}: the ending {ending!r} is unknown; known are {known} and none")
    text = Text.of_file(file)
    count = 0
    rows = _READERS[ending]
    for count, row in enumerate(rows(text), 1):
        if count > MAX_PROMPTS:
            raise ValueError(f"{file}: more than {MAX_PROMPTS} prompts; split it")
        yield row
    if not count:
        how = "" if text.encoding == "UTF-8" else f" (read as {text.encoding}, not UTF-8)"
        raise ValueError(f"{file}: no prompt in this file{how}")


def read_prompt_text(text: str) -> Iterator[PromptRow]:
    """The rows of a text with one prompt per line, as in a file; ValueError if too many."""
    return _text_rows(Text.of(text))


def class_index(prompt: str) -> int:
    """The number of a class, in a file whose prompts are these; ValueError if it is none."""
    if not (prompt.isascii() and prompt.isdigit() and len(prompt) < 10):
        raise ValueError(f"prompt must be the number of a class, got {shown(prompt)}")
    return int(prompt)


def _row(line: int, parse: Callable[[Any], dict[str, Any]], content: Any) -> PromptRow:
    try:
        fields = parse(content)
        unknown = sorted(set(fields) - set(FIELDS))
        if unknown:
            raise ValueError(f"unknown field {shown(unknown[0])}; known are {', '.join(FIELDS)}")
        _check_prompt(fields.get("prompt"))
    except ValueError as error:
        return PromptRow(line, error=str(error))
    return PromptRow(line, fields)


def _check_prompt(value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"prompt must be a text, got {shown(value)}")
    if not value.strip():
        raise ValueError("prompt is empty")
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"prompt has more than {MAX_CHARACTERS} characters")
    refuse_control_characters(value)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"prompt is not UTF-8 text (at character {error.start})") from None


# --- a prompt per line ------------------------------------------------------------------------


def _text_rows(text: Text) -> Iterator[PromptRow]:
    def parse(line: bytes) -> dict[str, Any]:
        return {"prompt": text.decoded(line).strip()}

    for number, line in enumerate(text.lines(), 1):
        readable = line[:MAX_LINE_BYTES].decode("utf-8", "replace")
        bare = readable.strip()
        if not bare.startswith("#") and (bare or has_control_characters(readable)):
            yield _row(number, parse, line)


def _rows_that_are_text(text: Text) -> Iterator[PromptRow]:
    """Refuse another format under the name of text; the first row tells."""
    for count, row in enumerate(_text_rows(text)):
        if not count and row.error is None:
            other = _other_format(row.fields["prompt"])
            if other:
                found = shown(row.fields["prompt"])
                raise ValueError(f"{text.name}, line {row.line}: {found} is no prompt, but {other}")
        yield row


def _other_format(first: str) -> str | None:
    cells = {cell.strip(" \"'").lower() for cell in re.split("[,;\t]", first)}
    if "prompt" in cells and all(re.fullmatch(r"\w+", cell) for cell in cells):
        return "a header as in CSV, whose file ends in .csv or .tsv"
    if first[0] in "[{" and _is_json(first.rstrip(",")):
        return "JSON, whose file ends in .json or, with an object per line, in .jsonl"
    return None


def _is_json(text: str) -> bool:
    """Whether it is, or is how JSON of several lines begins."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    except json.JSONDecodeError as error:
        return error.pos >= len(text)  # nothing is wrong but that it ends
    except ValueError:  # an integer of thousands of digits
        return True
    return True


# --- JSON -------------------------------------------------------------------------------------


class _Object(list):
    """Names and values of a JSON object; a name that comes twice is still there twice."""


_DECODER = json.JSONDecoder(object_pairs_hook=_Object)


def _fields(value: Any) -> dict[str, Any]:
    if not isinstance(value, _Object):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    fields: dict[str, Any] = {}
    for name, content in value:
        if name in fields:
            raise ValueError(f"field {shown(name)} comes twice")
        fields[name] = content
    return fields


def _object_rows(text: Text) -> Iterator[PromptRow]:
    def parse(line: bytes) -> dict[str, Any]:
        decoded = text.decoded(line)
        try:
            value = _DECODER.decode(decoded)
        except RecursionError:
            raise ValueError("not JSON (nested too deeply)") from None
        except ValueError as error:
            raise ValueError(f"not JSON ({error})") from None
        return _fields(value)

    for number, line in enumerate(text.lines(), 1):
        if line.strip(b" \t"):
            yield _row(number, parse, line)


def _array_rows(text: Text) -> Iterator[PromptRow]:
    def parse(value: Any) -> dict[str, Any]:
        return {"prompt": value} if isinstance(value, str) else _fields(value)

    content = text.whole()
    line = counted = 0
    for start, value in _array_values(text.name, content):
        line += line_at(content[counted:start], start) - (counted > 0)
        counted = start
        yield _row(line, parse, value)


def _array_values(name: str, content: str) -> Iterator[tuple[int, Any]]:
    """Where each value of an array starts, and the value."""

    def broken(reason: object, at: int) -> ValueError:
        return ValueError(f"{name}, line {line_at(content, at)}: not JSON ({reason})")

    at = _skip_space(content, 0)
    if content[at : at + 1] != "[":
        raise broken("expected an array of prompts; objects line by line are .jsonl", at)
    at = _skip_space(content, at + 1)
    more = content[at : at + 1] != "]"
    while more:
        try:
            value, end = _DECODER.raw_decode(content, at)
        except RecursionError:
            raise broken("nested too deeply", at) from None
        except ValueError as error:  # also an integer of thousands of digits, which has no place
            raise broken(getattr(error, "msg", error), getattr(error, "pos", at)) from None
        yield at, value
        at = _skip_space(content, end)
        more = content[at : at + 1] == ","
        if not more and content[at : at + 1] != "]":
            raise broken("expected a comma or the array's end", at)
        at = _skip_space(content, at + more)
    at = _skip_space(content, at + 1)
    if at < len(content):
        raise broken("there is something behind the array", at)


def _skip_space(content: str, at: int) -> int:
    space = _JSON_SPACE.match(content, at)
    return space.end() if space else at


# --- CSV --------------------------------------------------------------------------------------


def _cell_rows(text: Text, separator: str) -> Iterator[PromptRow]:
    lines = [_line(text, line) for line in text.lines(keep_ends=True)]
    texts = [line for line, _ in lines]
    header: list[str] = []

    def parse(cells: list[str]) -> dict[str, Any]:
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} cells, but the header has {len(header)}")
        named = zip(header, cells, strict=True)
        return {name: cell for name, cell in named if cell or name == "prompt"}

    start = 0
    while start < len(lines):
        taken, cells, reasons = 1, [""], []
        try:
            cells, taken = _cells(texts, start, separator)
        except ValueError as error:  # a forgotten quote spoils its own line and no other
            reasons = [(start + 1, str(error))]
        row = enumerate(lines[start : start + taken], start + 1)
        reasons = [(number, wrong) for number, (_, wrong) in row if wrong] or reasons
        if reasons:
            number, wrong = reasons[0]
            if not header:
                raise ValueError(f"{text.name}, line {number}: {wrong}")
            yield PromptRow(number, error=wrong)
        elif cells and not header:
            header += _header(text.name, cells)
        elif cells:
            yield _row(start + 1, parse, cells)
        start += taken


def _line(text: Text, line: bytes) -> tuple[str, str | None]:
    """A line with its end, and what is wrong with it; its quotes count all the same."""
    try:
        return text.decoded(line), None
    except ValueError as error:
        end = line[len(line.rstrip(b"\r\n")) :].decode()
        readable = line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip("\r\n")
        return readable.replace("\0", "") + end, str(error)


def _cells(lines: list[str], start: int, separator: str) -> tuple[list[str], int]:
    """The cells of the row that starts there, and how many lines it has."""
    ahead = range(start, min(start + MAX_ROW_LINES, len(lines)))
    reader = csv.reader((lines[i] for i in ahead), delimiter=separator, strict=True)
    try:
        cells = next(reader)
    except csv.Error as error:
        raise ValueError(f"not CSV ({error})") from None
    cell = f'(?:"[^"]*(?:""[^"]*)*"|[^"{separator}\r\n]*)'
    row = "".join(lines[start : start + reader.line_num])
    if not re.fullmatch(f"{cell}(?:{separator}{cell})*[\r\n]*", row):
        raise ValueError('not CSV (a quote within a cell; "" in a cell in quotes stands for one)')
    return cells, reader.line_num


def _header(name: str, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if "prompt" not in header or len(set(header)) < len(header) or set(header) - set(FIELDS):
        raise ValueError(
            f"{name}: the header must name the column prompt and may name seed and cache_preset, "
            f"found {', '.join(map(shown, header))[:300]}"
        )
    return header


_READERS: dict[str, Callable[[Text], Iterator[PromptRow]]] = {
    **dict.fromkeys(("", ".txt", ".text"), _rows_that_are_text),
    **dict.fromkeys((".jsonl", ".ndjson"), _object_rows),
    ".json": _array_rows,
    ".csv": partial(_cell_rows, separator=","),
    ".tsv": partial(_cell_rows, separator="\t"),
}
"""By the ending of a file's name."""
