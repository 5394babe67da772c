"""Where a pipeline's parts go, and in which number format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain

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


def text_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Number format of the text encoder in a pipeline of ``dtype``: never float16.

    What language models add up from layer to layer grows beyond float16. bfloat16, in which the
    published encoder was trained, does not overflow; a GPU without it computes in float32.
    """
    if dtype is not torch.float16:
        return dtype
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float32
    try:
        return resolve_dtype("bfloat16", device)
    except ValueError:
        return torch.float32


@contextlib.contextmanager
def lent_to(module: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the tensors of ``module`` are copies on ``device``; afterwards they are as before.

    Nothing is copied back. The device's memory is free again for other programs.
    """
    tensors = list(chain(module.parameters(), module.buffers()))
    before = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device)
        yield
    finally:
        for tensor, data in zip(tensors, before, strict=True):
            tensor.data = data
        give_back = getattr(getattr(torch, device.type, None), "empty_cache", None)
        if give_back is not None:
            give_back()
