"""Files written by ``torch.save``, opened without reading the tensors' values.

The present format is a zip archive of stored entries, whose tensors are mapped from the disk. The
one before torch 1.6 cannot be mapped and is read whole, which takes at most the file's size.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from hart.utils.errors import CheckpointError, one_line

_END_RECORD_BYTES = 22
_PICKLE_BYTES, _PICKLE_BYTES_PER_ENTRY = 1 << 16, 1 << 11  # about 300 are needed for a tensor


def load_pickled(file: Path, inside: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """The state dict in a file, as tensors that point into it.

    Args:
        inside: keys that lead to the state dict in a training checkpoint; see ``read_state_dict``.

    Raises:
        CheckpointError: the file is damaged, holds something else, or claims more than it has.
    """
    try:
        content = _load(file)
    except CheckpointError:
        raise
    # Damaged files fail with almost any exception, from EOFError to KeyError.
    except Exception as error:
        raise CheckpointError(
            f"{file}: not a complete file of plain tensors ({type(error).__name__}: "
            f"{one_line(error)})"
        ) from error
    if isinstance(content, dict) and inside and inside[0] in content:
        content = _descend(file, content, inside)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a state dict")
    for key, tensor in content.items():
        _check_entry(file, key, tensor)
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in content.values())
    size = file.stat().st_size
    if claimed > size:
        raise CheckpointError(f"{file}: its tensors claim {claimed} bytes, the file has {size}")
    return content


def _load(file: Path) -> object:
    if zipfile.is_zipfile(file):
        _check_archive(file)
        return torch.load(str(file), map_location="cpu", weights_only=True, mmap=True)
    with file.open("rb") as opened:
        content = torch.load(opened, map_location="cpu", weights_only=True)
        if opened.read(1):
            raise CheckpointError(f"{file}: bytes after the end of the last tensor")
    return content


def _check_archive(file: Path) -> None:
    """Refuse what would unpack to more than the file, or holds bytes that nothing reads."""
    size = file.stat().st_size
    with zipfile.ZipFile(file) as archive, file.open("rb") as opened:
        entries = archive.infolist()
        opened.seek(size - _END_RECORD_BYTES)
        if opened.read(4) != b"PK\x05\x06":
            raise CheckpointError(f"{file}: bytes after the end of the archive")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f"{file}: has compressed entries, expected stored ones")
        if sum(entry.file_size for entry in entries) > size:
            raise CheckpointError(f"{file}: its entries claim more than its {size} bytes")
        if len({entry.filename for entry in entries}) < len(entries):
            raise CheckpointError(f"{file}: has two entries of one name")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                limit = _PICKLE_BYTES + _PICKLE_BYTES_PER_ENTRY * len(entries)
                if entry.file_size > limit:
                    raise CheckpointError(
                        f"{file}: its pickle has {entry.file_size} bytes, at most {limit} are read"
                    )
                _check_pickle(file, archive.read(entry))


def _check_pickle(file: Path, data: bytes) -> None:
    *_, (_, _, stop) = pickletools.genops(data)
    if (stop or 0) + 1 < len(data):
        raise CheckpointError(f"{file}: bytes after the end of its pickle")


def _check_entry(file: Path, key: object, tensor: object) -> None:
    name = f"{file}: entry {str(key)[:200]!r}"
    if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{name} is a {type(tensor).__name__}, expected a tensor")
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        kind = "without values" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
        raise CheckpointError(f"{name} is a tensor {kind}, expected a plain one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{name} has {tensor.numel()} numbers that are expanded from fewer in the file"
        )


def _descend(file: Path, content: object, keys: Sequence[str]) -> object:
    for depth, key in enumerate(keys, start=1):
        if not isinstance(content, dict) or key not in content:
            raise CheckpointError(f"{file}: a training checkpoint without {'.'.join(keys[:depth])}")
        content = content[key]
    return content
