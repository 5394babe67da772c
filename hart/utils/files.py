"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PART_SUFFIX = ".part"
"""Of files that are being written; one is left behind where a process was killed."""


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to; it is moved over ``path`` if writing succeeds.

    Folders are created. After an exception ``path`` is what it was before.

    Args:
        path: the file to make or replace.
        durable: return only when file and name would survive a power failure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        yield beside
        if durable:
            sync(beside)  # before the name: a name on the disk never has half a file
        os.replace(beside, path)
        if durable:
            sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def real_path(path: Path) -> Path:
    """``path`` without links and dots.

    Raises:
        OSError: the links form a loop. Before Python 3.13 ``Path.resolve`` raises another error.
    """
    try:
        return path.resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk.

    Windows cannot sync a folder; its own journal keeps the names.
    """
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(file: Path, content: Mapping[str, Any], durable: bool = False) -> None:
    """Write an indented JSON document; ``durable`` as in :func:`replacing`.

    Raises:
        ValueError: a number is not finite.
        OSError: the file cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(file, durable) as beside:
        beside.write_text(text + "\n", encoding="utf-8")
