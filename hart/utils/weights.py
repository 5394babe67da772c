"""Reading weight files into a state dict and a state dict into a module.

Weight files come from other people. They are read without executing code, checked against the
module before anything is copied, and every refusal names the file and the first difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

# In the order in which they are looked for.
WEIGHT_FILE_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class CheckpointError(ValueError):
    """A weight file is missing, unreadable, or does not fit the module."""


def find_weight_files(folder: str | Path) -> list[Path]:
    """Return the weight files of a model folder, all shards of a sharded one.

    Safetensors files are preferred to pickled ones. Raises ``CheckpointError`` if the folder has
    no weight file, or if an index is unreadable or names a shard that is not there.
    """
    folder = Path(folder)
    for name in WEIGHT_FILE_NAMES:
        path = folder / name
        if path.is_file():
            return _shards(path) if path.suffix == ".json" else [path]
    raise CheckpointError(f"{folder}: no weight file; looked for {', '.join(WEIGHT_FILE_NAMES)}")


def read_state_dict(
    folder_or_file: str | Path,
    prefix: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    inside: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """Read a state dict from a model folder or from one weight file.

    Args:
        folder_or_file: folder (see ``find_weight_files``), ``.safetensors`` file, or a file
            written by ``torch.save`` that holds a flat dictionary of tensors.
        prefix: keep only the keys that start with it, and cut it off.
        dtype: floating-point tensors are converted to it one by one; ``None`` keeps them.
        device: where the tensors are put; ``None`` means CPU.
        inside: keys that lead to the state dict in a training checkpoint. A file written by
            ``torch.save`` that has the first of them is one; any other is read as it is.

    Raises ``CheckpointError`` naming the file if it is missing, truncated or not a state dict.
    """
    path = Path(folder_or_file)
    files = find_weight_files(path) if path.is_dir() else [path]
    state: dict[str, torch.Tensor] = {}
    for file in files:
        for key, tensor in _read_file(file, prefix or "", inside):
            if key in state:
                raise CheckpointError(f"{file}: key '{key}' is also in another shard")
            target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            # A copy even if nothing changes: a tensor read lazily still points into the file.
            state[key] = tensor.to(device=device or "cpu", dtype=target, copy=True)
    return state


def load_into(
    module: nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    *,
    ignore: Iterable[str] = (),
    source: str | Path = "state dict",
) -> None:
    """Load a state dict strictly.

    A module built on the meta device takes over the given tensors (no second copy, their dtype
    and device); otherwise the values are copied into the module's own tensors.

    Args:
        ignore: shell-style patterns. A key that matches one is not required, and is left out if
            the module has no such key or another shape.
        source: where the tensors came from, for the error message.

    Raises ``CheckpointError`` with the first missing, unexpected or mismatching key.
    """
    patterns = tuple(ignore)
    expected = module.state_dict()
    differences = {
        key: text
        for key, text in _differences(expected, state_dict)
        if not any(fnmatchcase(key, pattern) for pattern in patterns)
    }
    if differences:
        first = next(iter(differences.values()))
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: {first}{more}")
    fitting = {
        key: tensor
        for key, tensor in state_dict.items()
        if key in expected and expected[key].shape == tensor.shape
    }
    on_meta = any(tensor.is_meta for tensor in expected.values())
    module.load_state_dict(fitting, strict=False, assign=on_meta)


def _differences(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, str]]:
    for key, tensor in expected.items():
        if key not in found:
            yield key, f"key '{key}' is missing"
        elif found[key].shape != tensor.shape:
            shapes = f"{tuple(found[key].shape)}, expected {tuple(tensor.shape)}"
            yield key, f"key '{key}' has shape {shapes}"
    for key in found:
        if key not in expected:
            yield key, f"key '{key}' is unexpected"


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = [index.parent / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of weight files ({error!r})") from error
    if not shards:
        raise CheckpointError(f"{index}: lists no weight file")
    for name, shard in zip(names, shards, strict=True):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: '{name}' is not a file name inside this folder")
        if not shard.is_file():
            raise CheckpointError(f"{index}: the shard '{name}' is not there")
    return shards


def _read_file(
    file: Path, prefix: str, inside: Sequence[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    if not file.is_file():
        raise CheckpointError(f"{file}: no such weight file")
    if file.suffix == ".safetensors":
        yield from _read_safetensors(file, prefix)
    else:
        yield from _read_pickle(file, prefix, inside)


def _read_safetensors(file: Path, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            for key in opened.keys():  # noqa: SIM118 (the handle itself is not iterable)
                if key.startswith(prefix):
                    yield key[len(prefix) :], opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: not a complete safetensors file ({error}); fetch it again"
        ) from error


def _read_pickle(
    file: Path, prefix: str, inside: Sequence[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    # Damaged pickles fail with almost any exception type, from EOFError to KeyError.
    except Exception as error:
        raise CheckpointError(
            f"{file}: not a complete file of plain tensors ({type(error).__name__}: {error})"
        ) from error
    if isinstance(content, dict) and inside and inside[0] in content:
        content = _descend(file, content, inside)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a state dict")
    for key in list(content):
        # Popping releases each tensor once its converted copy exists.
        tensor = content.pop(key)
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise CheckpointError(f"{file}: entry '{key}' is a {kind}, expected a tensor")
        if key.startswith(prefix):
            yield key[len(prefix) :], tensor


def _descend(file: Path, content: object, keys: Sequence[str]) -> object:
    for depth, key in enumerate(keys, start=1):
        if not isinstance(content, dict) or key not in content:
            raise CheckpointError(f"{file}: a training checkpoint without {'.'.join(keys[:depth])}")
        content = content[key]
    return content
