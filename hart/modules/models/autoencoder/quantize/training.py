"""The quantizer's training pass: what it returns, and in which precision it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch


class Quantized(NamedTuple):
    """Result of quantizing a map for training."""

    f_hat: torch.Tensor  # (B, Z, H, W), value of the quantized map, gradient of the input
    rest: torch.Tensor  # (B, Z, H, W), what all stages left over, without gradient
    usages: torch.Tensor | None  # percentage of the codes that were used, 0-dimensional
    loss: torch.Tensor  # 0-dimensional
    ids: list[torch.Tensor]  # S tensors (B * pn^2,)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Switch autocast off; nothing to do on devices that have none."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
