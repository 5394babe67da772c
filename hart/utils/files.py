"""Writing files so that nobody ever sees half of one, and reading none that never ends."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PART_SUFFIX = ".part"
"""Of files that are being written; one is left behind where a process was killed."""

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to; it is moved over ``path`` if writing succeeds.

    After an exception ``path`` is what it was before.

    Args:
        path: the file to make or replace.
        durable: return only when file and name would survive a power failure. The folder must be
            there (see :func:`make_folder`): one that has vanished takes what it held with it, and
            is not made anew. Otherwise folders are created.

    Raises:
        OSError: the file cannot be written, or its folder is not there.
    """
    if not durable:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "there is no such folder (any more)", str(path.parent)
        )
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


def make_folder(path: Path) -> None:
    """Make a folder and those above it; what is new would survive a power failure.

    Raises:
        OSError: one cannot be made, or something else has its name.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(new):
        sync(folder.parent)


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


def regular_size(path: Path) -> int:
    """Size in bytes of a regular file.

    Raises:
        ValueError: it is something else.
        OSError: it is not there, or a link that leads nowhere.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise ValueError(f"{path}: expected a regular file, found {kind}")
    return status.st_size


def read_limited(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file; a pipe or device may never end, and is not opened.

    Raises:
        ValueError: it is something else, or larger than ``max_bytes``.
        OSError: it cannot be read.
    """
    size, data = regular_size(path), b""
    if size <= max_bytes:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)  # it may have grown
        size = len(data)
    if size > max_bytes:
        raise ValueError(f"{path}: expected at most {max_bytes} bytes, found {size}")
    return data


def write_text(file: Path, text: str, durable: bool = False) -> None:
    """Write a text as UTF-8; ``durable`` and OSError as in :func:`replacing`."""
    with replacing(file, durable) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Mapping[str, Any], durable: bool = False) -> None:
    """Write an indented JSON document; ``durable`` as in :func:`replacing`.

    Raises:
        ValueError: a number is not finite.
        OSError: the file cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(file, text + "\n", durable)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits; OSError if it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
