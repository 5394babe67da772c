"""Reading JSON files: those that are asked for again and again, and those of strangers."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from hart.utils.errors import CheckpointError

MAX_DEPTH = 64
"""Lists and objects within each other that are believed; a tokenizer has about ten."""

MAX_CONFIG_BYTES = 1 << 20
"""Largest configuration that is read; a large one has some kilobytes."""

MAX_VOCABULARY_BYTES = 1 << 27
"""Largest other JSON file of a checkpoint; a tokenizer of 250000 entries has about 20 MB."""


def lru_json_load(fpath: str | os.PathLike[str]) -> Any:
    """The content of a JSON file, read again only after the file changed.

    The result is a copy, so the caller may edit it. The 16 files used last are kept.
    """
    status = os.stat(fpath)
    return copy.deepcopy(_load(os.path.abspath(fpath), status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=16)
def _load(path: str, *_: int) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_json_object(file: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
        CheckpointError: no such file, too large, not JSON, not an object, a key given twice, or
            nested more than :data:`MAX_DEPTH` deep.
    """
    if not file.is_file():  # a pipe or device has no end
        raise CheckpointError(f"{file}: no such file")
    size = file.stat().st_size
    if size > max_bytes:
        raise CheckpointError(f"{file}: {size} bytes; at most {max_bytes} are read")
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a readable JSON file ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def parse_json(data: bytes | str) -> Any:
    """As ``json.loads``, strictly.

    Raises:
        ValueError: not JSON in UTF-8, a key given twice, or nested more than :data:`MAX_DEPTH`
            deep.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except (RecursionError, MemoryError):
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    _check_depth(content)
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two values of a key counts, readers disagree about."""
    content = dict(pairs)
    if len(content) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:80]!r} is given twice")
    return content


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        level = [value for value in level if isinstance(value, dict | list)]
        if not level:
            return
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    raise ValueError(f"nested more than {MAX_DEPTH} deep")
