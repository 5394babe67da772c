"""Resizing a map by averaging over areas, on every device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hart.utils.device import without_autocast

POOLING_DEVICES = ("cpu", "cuda")
"""Where torch's pooling takes every pair of sizes. On MPS it refuses 64 to 48, for example."""


def average_areas(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map (B, C, h, w); each target cell is the mean of the source cells that it touches.

    By torch's pooling or by two matrix products, which every device has; the two differ by rounding
    (at most 2.4e-7 for standard normal values).

    The result, (B, C, *size), has the dtype of ``x``. Products are computed in float32, also under
    autocast.
    """
    if x.device.type in POOLING_DEVICES:
        return F.adaptive_avg_pool2d(x, size)
    with without_autocast(x.device):
        rows, columns = (_touched(*n, x.device) for n in zip(x.shape[-2:], size, strict=True))
        sums = rows @ x.float() @ columns.T
        return (sums / (rows.sum(dim=1)[:, None] * columns.sum(dim=1))).to(x.dtype)


def _touched(source: int, target: int, device: torch.device) -> Tensor:
    """(target, source) float32: 1 where a target cell overlaps a source cell at all, else 0."""
    i = torch.arange(target, dtype=torch.int64, device=device)[:, None]
    j = torch.arange(source, dtype=torch.int64, device=device)
    return ((j * target < (i + 1) * source) & ((j + 1) * target > i * source)).float()
