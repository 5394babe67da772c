"""Where a pipeline's parts go, and in which number format."""

from __future__ import annotations

import torch

from hart.utils.device import default_device, resolve_dtype
from hart.utils.names import SHORT_DTYPES

DTYPE_NAMES = ("auto", "fast", *SHORT_DTYPES, *SHORT_DTYPES.values())
"""What :func:`resolve_dtype` takes beside torch's dtypes."""


def resolve_device(device: str | torch.device | None) -> torch.device:
    """``device``, or the best one that can be used now.

    Raises:
        ValueError: not the name of a device.
    """
    if device is None:
        return default_device()
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device is {device!r}; expected a name such as cpu, cuda, cuda:1 or mps"
        ) from error


def resolve_place(
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    torch_dtype: str | torch.dtype | None = None,
) -> tuple[torch.device, torch.dtype]:
    """Device and number format, by default the best device and the format "auto" for it.

    Raises:
        ValueError: see :func:`resolve_device` and :func:`resolve_dtype`.
        TypeError: the number format is given under both of its names.
    """
    if None not in (dtype, torch_dtype):
        raise TypeError("dtype is given twice, also as torch_dtype")
    dtype = torch_dtype if dtype is None else dtype
    device = resolve_device(device)
    return device, resolve_dtype("auto" if dtype is None else dtype, device)


def convert_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights alone, as loading in ``dtype`` does.

    ``model.to`` would round the frequencies of rotary positions too, which are buffers.
    """
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


def offload_in_turns(first: torch.nn.Module, second: torch.nn.Module, device: torch.device) -> None:
    """Keep two parts on the CPU; each is on ``device`` from its call until the other one's.

    Raises:
        ImportError: ``accelerate`` is not installed, which moves them.
    """
    try:
        from accelerate import cpu_offload_with_hook
        from accelerate.hooks import remove_hook_from_module
    except ImportError as error:
        raise ImportError(
            'offloading needs the package accelerate: pip install "hart[distributed]"'
        ) from error
    for part in (first, second):
        remove_hook_from_module(part)
    _, before = cpu_offload_with_hook(first, device)
    _, after = cpu_offload_with_hook(second, device, prev_module_hook=before)
    before.hook.prev_module_hook = after
