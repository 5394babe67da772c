"""Where a pipeline's parts go, and in which number format."""

from __future__ import annotations

import torch

from hart.utils.device import default_device, resolve_dtype


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
    device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Device and number format, by default the best device and the format "auto" for it.

    Raises:
        ValueError: see :func:`resolve_device` and :func:`resolve_dtype`.
    """
    device = resolve_device(device)
    return device, resolve_dtype("auto" if dtype is None else dtype, device)
