"""What the quantizer's training pass returns."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Quantized(NamedTuple):
    """Result of quantizing a map for training."""

    f_hat: torch.Tensor  # (B, Z, H, W), value of the quantized map, gradient of the input
    rest: torch.Tensor  # (B, Z, H, W), what all stages left over, without gradient
    usages: torch.Tensor | None  # percentage of the codes that were used, 0-dimensional
    loss: torch.Tensor  # 0-dimensional
    ids: list[torch.Tensor]  # S tensors (B * pn^2,)
