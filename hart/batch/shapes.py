"""What a batch's own files must look like; anything else is named in one line and left alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.modules.networks.caching.similarity import validate_table
from hart.pipeline.options import SEED_LIMIT
from hart.utils.errors import shown
from hart.utils.fields import Checked, Choice, Field, Items, Optional, Text, Whole, check_field
from hart.utils.files import read_limited
from hart.utils.json_files import parse_json

MAX_DOCUMENT_BYTES = 2**28
MAX_ROWS_BYTES = 2**32
_COUNT = Whole(0, 2**53)


def _utf8(text: Any) -> None:
    if not isinstance(text, str):
        raise TypeError
    text.encode("utf-8")


_ROW: dict[str, Field] = {
    "index": _COUNT,
    "line": _COUNT,
    "prompt": Checked(_utf8, "text"),
    "seed": Whole(0, SEED_LIMIT - 1),
    "cache_preset": Optional(Choice(tuple(CACHE_PRESETS))),
    "bytes": Optional(_COUNT),
    "sha256": Optional(Text()),
    "batch": Items(_COUNT, 1, 2**20),
}


def read_document(file: Path, check: Callable[[Any], None]) -> Any:
    """A JSON document for which ``check`` raises no ValueError.

    Raises:
        ValueError: it is none, too large, or no regular file.
        OSError: it cannot be read.
    """
    advice = "; restore it or use another folder"
    return _parsed(str(file), read_limited(file, MAX_DOCUMENT_BYTES), check, advice)


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of ``results.jsonl``; raises as :func:`read_document`."""
    for number, line in enumerate(read_limited(file, MAX_ROWS_BYTES).split(b"\n"), 1):
        if line:
            yield _parsed(f"{file}, line {number}", line, check_row)


def _parsed(where: str, data: bytes, check: Callable[[Any], None], advice: str = "") -> Any:
    try:
        value = parse_json(data)
        check(value)
    except ValueError as error:
        raise ValueError(f"{where}: damaged ({error}){advice}") from error
    return value


def check_object(value: Any, names: set[str] | None = None) -> None:
    """Raise ValueError unless ``value`` is a JSON object, with these names if there are any."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {shown(value)}")
    if names is not None and set(value) != names:
        raise ValueError(f"expected {', '.join(sorted(names))}, found {shown(sorted(value))}")


def check_row(row: Any) -> None:
    """Raise ValueError unless ``row`` tells of an image what a resumed run needs to know."""
    check_object(row)
    for name, field in _ROW.items():
        if name not in row:
            raise ValueError(f"a row without {name}")
        check_field(f"{name} of a row", row[name], field)
    # It will be written again: halves of surrogate pairs and infinite numbers cannot be.
    json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
    index, batch = row["index"], row["batch"]
    if index not in batch or len(set(batch)) < len(batch):
        raise ValueError(f"batch of the row of image {index} is {shown(batch)}")


def check_record(value: Any, first: int, count: int) -> None:
    """Raise ValueError unless ``value`` is the record of ``count`` images from ``first`` on."""
    check_object(value, {"rows", "extra"})
    rows = value["rows"]
    if not isinstance(rows, list) or not rows or len(rows) != count:
        raise ValueError(f"expected {count} rows, found {shown(rows)}")
    for row in rows:
        check_row(row)
    if rows[0]["index"] != first:
        raise ValueError(f"expected image {first} first")
    _check_tables(value["extra"])


def check_start(value: Any) -> None:
    """Raise ValueError unless ``value`` is what a run's records add to."""
    check_object(value, {"start"})
    _check_tables(value["start"])


def _check_tables(value: Any) -> None:
    if value is None:
        return
    check_object(value, {*SITES, "images"})
    check_field("images", value["images"], Whole(1, 2**53))
    for site in SITES:
        table = value[site]
        if not isinstance(table, list) or not table or not isinstance(table[0], list):
            raise ValueError(f"{site} is {shown(table)}")
        validate_table(table, len(table), len(table[0]), site)


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], inside: str = ""
) -> Iterator[str]:
    """One phrase per field that differs, also of objects within objects."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f" of {name}{inside}")
        elif old != new or (name in before) != (name in now):
            was = shown(old) if name in before else "not noted"
            now_it_is = shown(new) if name in now else "not there"
            yield f"{name}{inside} was {was}, now it is {now_it_is}"
