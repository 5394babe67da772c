"""Writing files so that nobody ever sees half of one, and reading none that never ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hart.modules.networks.caching.files import (
    PART_SUFFIX,
    make_folder,
    read_limited,
    regular_size,
    replacing,
    sync,
)

__all__ = [
    "PART_SUFFIX",
    "file_sha256",
    "make_folder",
    "read_limited",
    "regular_size",
    "replacing",
    "sync",
    "write_json",
]

_CHUNK_BYTES = 1 << 20


def write_json(file: Path, content: Mapping[str, Any], durable: bool = False) -> None:
    """Write an indented JSON document; ``durable`` as in :func:`replacing`.

    Raises:
        ValueError: a number is not finite.
        OSError: the file cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(file, durable) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
