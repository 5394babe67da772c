"""Reading weight files into a state dict and a state dict into a module.

Weight files come from other people. They are read without executing code, checked against the
module before anything is copied, and every refusal names the file and the first difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from hart.utils.errors import CheckpointError, one_line
from hart.utils.json_files import read_json_object
from hart.utils.pickled_weights import load_pickled

__all__ = [
    "CheckpointError",
    "check_fit",
    "check_one_dtype",
    "find_weight_files",
    "is_finite",
    "load_into",
    "read_headers",
    "read_state_dict",
]

# In the order in which they are looked for.
WEIGHT_FILE_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

MAX_INDEX_BYTES = 1 << 24
"""Largest index of shards that is read: 100000 tensors."""

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_SAFETENSORS_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


def find_weight_files(folder: str | Path) -> list[Path]:
    """The weight files of a model folder, all shards of a sharded one; safetensors are preferred.

    Raises ``CheckpointError``: no weight file, or an index that is unreadable or names a shard that
    is not there.
    """
    folder = Path(folder)
    for name in WEIGHT_FILE_NAMES:
        path = folder / name
        if path.is_file():
            return _shards(path) if path.suffix == ".json" else [path]
    raise CheckpointError(f"{folder}: no weight file; looked for {', '.join(WEIGHT_FILE_NAMES)}")


def read_headers(
    folder_or_file: str | Path, prefix: str | None = None, inside: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The state dict of :func:`read_state_dict` on the meta device: dtypes and shapes, no values.

    Nothing of the tensors' size is allocated. Raises ``CheckpointError`` as
    :func:`read_state_dict` does.
    """
    return {key: header for _, key, header, _ in _entries(folder_or_file, prefix, inside)}


def read_state_dict(
    folder_or_file: str | Path,
    prefix: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    inside: Sequence[str] = (),
    wanted: Callable[[str], bool] | None = None,
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
        wanted: which keys to read, after ``prefix`` is cut off; by default all.

    Raises ``CheckpointError`` naming the file if it is missing, truncated, not a state dict, or
    holds numbers that are not finite (in ``dtype``).
    """
    state: dict[str, torch.Tensor] = {}
    for file, key, header, read in _entries(folder_or_file, prefix, inside):
        if wanted is not None and not wanted(key):
            continue
        target = dtype if dtype is not None and header.is_floating_point() else header.dtype
        # A copy even if nothing changes: a tensor read lazily still points into the file.
        tensor = read().to(dtype=target, copy=True)
        if not is_finite(tensor):
            raise CheckpointError(f"{file}: '{key}' has numbers that are not finite in {target}")
        state[key] = tensor.to(device or "cpu")
    return state


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number of a tensor is infinite or not a number."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(end.isfinite()) for end in tensor.detach().aminmax())  # NaN is both ends


def load_into(
    module: nn.Module, state_dict: Mapping[str, torch.Tensor], *,
    ignore: Iterable[str] = (), source: str | Path = "state dict",
) -> None:  # fmt: skip
    """Load a state dict strictly.

    A module built on the meta device takes over the given tensors (no second copy, their dtype
    and device); otherwise the values are copied into the module's own tensors.

    Args:
        ignore: shell-style patterns. A key that matches one is not required, and is left out if
            the module has no such key or another shape.
        source: where the tensors came from, for the error message.

    Raises ``CheckpointError`` with the first missing, unexpected or mismatching key.
    """
    expected = module.state_dict()
    check_fit(module, state_dict, ignore=ignore, source=source)
    fitting = {
        key: tensor
        for key, tensor in state_dict.items()
        if key in expected and expected[key].shape == tensor.shape
    }
    on_meta = any(tensor.is_meta for tensor in expected.values())
    module.load_state_dict(fitting, strict=False, assign=on_meta)


def check_fit(
    module: nn.Module, state_dict: Mapping[str, torch.Tensor], *,
    ignore: Iterable[str] = (), source: str | Path = "state dict",
) -> None:  # fmt: skip
    """Compare keys, shapes and kinds of numbers with the module's; see :func:`load_into`.

    The module and the state dict, or either, may be on the meta device.
    """
    patterns = tuple(ignore)
    first, *others = [
        text
        for key, text in _differences(module.state_dict(), state_dict)
        if not any(fnmatchcase(key, pattern) for pattern in patterns)
    ] or [""]
    if first:
        more = f" (and {len(others)} more)" if others else ""
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: {first}{more}")


def check_one_dtype(
    state_dict: Mapping[str, torch.Tensor], dtype: torch.dtype | None, source: str | Path
) -> None:
    """Refuse weights of several dtypes, which do not multiply, unless they are converted to one.

    Raises ``CheckpointError``.
    """
    found = {t.dtype for t in state_dict.values() if t.is_floating_point()}
    if dtype is None and len(found) > 1:
        names = " and ".join(sorted(map(str, found)))
        raise CheckpointError(f"{source}: has weights of {names}; give the dtype to load them in")


def _differences(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, str]]:
    for key, tensor in expected.items():
        if key not in found:
            yield key, f"key '{key}' is missing"
        elif found[key].shape != tensor.shape:
            shapes = f"{tuple(found[key].shape)}, expected {tuple(tensor.shape)}"
            yield key, f"key '{key}' has shape {shapes}"
        else:
            allowed = WEIGHT_DTYPES if tensor.is_floating_point() else _INTEGERS
            if found[key].dtype not in allowed:
                names = ", ".join(str(dtype) for dtype in allowed)
                yield key, f"key '{key}' has dtype {found[key].dtype}, expected one of {names}"
    for key in found:
        if key not in expected:
            yield key, f"key '{key}' is unexpected"


def _shards(index: Path) -> list[Path]:
    weight_map = read_json_object(index, MAX_INDEX_BYTES).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{index}: not an index of weight files ('weight_map' to file names)")
    names = sorted(set(names))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: {name[:80]!r} is not a file name inside this folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: the shard {name[:80]!r} is not there")
    return [index.parent / name for name in names]


_Entry = tuple[Path, str, torch.Tensor, Callable[[], torch.Tensor]]


def _entries(
    folder_or_file: str | Path, prefix: str | None, inside: Sequence[str]
) -> Iterator[_Entry]:
    """File, key, header on the meta device and what reads the values, for every tensor."""
    path, prefix = Path(folder_or_file), prefix or ""
    seen: set[str] = set()
    for file in find_weight_files(path) if path.is_dir() else [path]:
        if not file.is_file():
            raise CheckpointError(f"{file}: no such weight file")
        read_file = _safetensors if file.suffix == ".safetensors" else partial(_pickled, inside)
        for key, header, read in read_file(file):
            if not key.startswith(prefix):
                continue
            key = key[len(prefix) :]
            if key in seen:
                raise CheckpointError(f"{file}: key '{key}' is also in another shard")
            seen.add(key)
            yield file, key, header, read


def _safetensors(file: Path) -> Iterator[tuple[str, torch.Tensor, Callable[[], torch.Tensor]]]:
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            headers = {key: _header(key, opened.get_slice(key)) for key in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{file}: not a complete safetensors file ({one_line(error)}); fetch it again"
            ) from error
        for key, header in headers.items():
            yield key, header, partial(opened.get_tensor, key)


def _header(key: str, entry: Any) -> torch.Tensor:
    dtype = entry.get_dtype()
    if dtype not in _SAFETENSORS_DTYPES:
        known = ", ".join(_SAFETENSORS_DTYPES)
        raise ValueError(f"'{key[:200]}' has dtype {dtype!r:.80}, expected one of {known}")
    return torch.empty(entry.get_shape(), dtype=_SAFETENSORS_DTYPES[dtype], device="meta")


def _pickled(
    inside: Sequence[str], file: Path
) -> Iterator[tuple[str, torch.Tensor, Callable[[], torch.Tensor]]]:
    content = load_pickled(file, inside)
    for key in list(content):
        # Popping releases each tensor of a file that was read whole once its copy exists.
        tensor = content.pop(key)
        yield key, torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"), tensor.detach
