"""Choice of device and number format, made when asked and never at import."""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager, nullcontext

import torch

from hart.utils.names import SHORT_DTYPES, suggestion

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
STRIDED_ATTENTION_DEVICES = ("cpu", "cuda")
_PROBE_SIDE, _PROBE_ROUNDS = 256, 8  # at half the side, calling costs more than multiplying


def get_device() -> str:
    """``"cuda"`` if a CUDA device can be used now, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_device() -> torch.device:
    """The best device that can be used now: CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def resolve_dtype(dtype: str | torch.dtype, device: str | torch.device) -> torch.dtype:
    """Check a number format against a device.

    Args:
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``, short ``"fp32"``, ``"bf16"`` or
            ``"fp16"``, the torch dtype of one of these,
            ``"auto"``: float16 on CUDA, as in HART's own scripts, and float32 elsewhere, or
            ``"fast"``: as auto, but bfloat16 on a CPU that a short probe finds quick at it.
        device: Where the format will be used.

    Returns:
        The torch dtype.

    Raises:
        ValueError: if the format is not one of these, or a small matrix product in it fails
            on the device.
    """
    device = torch.device(device)
    if dtype == "fast" and device.type == "cpu" and bfloat16_is_fast():
        dtype = "bfloat16"
    if dtype in ("auto", "fast"):
        dtype = "float16" if device.type == "cuda" else "float32"
    resolved = _DTYPES.get(SHORT_DTYPES.get(dtype, dtype)) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in _DTYPES.values():
        hint = suggestion(dtype, (*_DTYPES, *SHORT_DTYPES, "auto", "fast"))
        raise ValueError(
            f"dtype is {dtype!r}; allowed are {', '.join(_DTYPES)}, auto and fast{hint}"
        )
    _probe(resolved, device)
    return resolved


def _probe(dtype: torch.dtype, device: torch.device) -> None:
    try:
        matrix = torch.ones(2, 2, dtype=dtype, device=device)
        (matrix @ matrix).sum().item()
    # A torch built without CUDA reports that with an AssertionError.
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"device {device} cannot compute in {dtype}: {error}") from error


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Switch autocast off; nothing to do on devices that have none."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def dense_where_needed(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values as torch's attention takes them: contiguous on MPS.

    There it has given wrong numbers for strided ones of head width 64 and more (pytorch issues
    163597 and 181133).
    """
    if tensors[0].device.type in STRIDED_ATTENTION_DEVICES:
        return tensors
    return tuple(tensor.contiguous() for tensor in tensors)


@functools.cache
def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 matrices at least as fast as float32 ones.

    Measured once per process, in a few milliseconds: processors with AMX or AVX512-BF16 are
    several times faster, others up to a hundred times slower. The two take turns, and the best
    time of each counts, because the first one prepares the kernel and other work on the machine
    may hold up most of the others.
    """
    rounds = [
        (_matmul_seconds(torch.bfloat16), _matmul_seconds(torch.float32))
        for _ in range(_PROBE_ROUNDS)
    ]
    half, single = (min(seconds) for seconds in zip(*rounds, strict=True))
    return half <= single


def has_amx() -> bool:
    """Whether torch multiplies bfloat16 matrices with this CPU's AMX tiles."""
    known = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch 2.6 or newer
    return known is not None and known()


def computes_fast_in_half(device_type: str) -> bool:
    """Whether half precision is worth it there: on a CPU only if bfloat16 is fast."""
    return device_type != "cpu" or bfloat16_is_fast()


def _matmul_seconds(dtype: torch.dtype) -> float:
    matrix = torch.ones(_PROBE_SIDE, _PROBE_SIDE, dtype=dtype, device="cpu")
    started = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - started
