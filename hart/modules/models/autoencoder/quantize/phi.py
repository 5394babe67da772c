"""The residual convolutions applied to each upsampled codebook map, and which stage uses which."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

__all__ = ["Phi", "PhiNonShared", "PhiPartiallyShared", "PhiShared", "build_phi"]


class Phi(nn.Conv2d):
    """``(1 - r) * h + r * conv3x3(h)`` with ``r = |quant_resi|``: (B, Z, H, W) -> (B, Z, H, W).

    The input may have another floating-point type than the weights; the result has the input's.
    """

    def __init__(self, embed_dim: int, quant_resi: float):
        super().__init__(embed_dim, embed_dim, kernel_size=3, stride=1, padding=1)
        self.resi_ratio = abs(quant_resi)

    def forward(self, h_BChw: torch.Tensor) -> torch.Tensor:
        convolved = super().forward(h_BChw.to(self.weight.dtype)).to(h_BChw.dtype)
        return h_BChw * (1 - self.resi_ratio) + convolved * self.resi_ratio


def _ticks(count: int) -> np.ndarray:
    # numpy's float64 rounding decides between two equally near ticks, and with it which
    # convolution a stage was trained with; exact arithmetic would choose differently.
    margin = 1 / (3 * count) if count == 4 else 1 / (2 * count)
    return np.linspace(margin, 1 - margin, count)


def _nearest_tick(ticks: np.ndarray, at: float) -> int:
    return int(np.argmin(np.abs(ticks - at)))


class PhiShared(nn.Module):
    """One convolution for all stages."""

    def __init__(self, qresi: nn.Module):
        super().__init__()
        self.qresi = qresi

    def __getitem__(self, at: float) -> nn.Module:
        return self.qresi


class PhiPartiallyShared(nn.Module):
    """K convolutions; indexed with the stage's position in [0, 1], the nearest tick decides."""

    def __init__(self, qresi_ls: nn.ModuleList):
        super().__init__()
        self.qresi_ls = qresi_ls
        self.ticks = _ticks(len(qresi_ls))

    def __getitem__(self, at: float) -> nn.Module:
        return self.qresi_ls[_nearest_tick(self.ticks, at)]


class PhiNonShared(nn.ModuleList):
    """One convolution per stage, indexed with the stage's position in [0, 1]."""

    def __init__(self, qresi: list[nn.Module]):
        super().__init__(qresi)
        self.ticks = _ticks(len(qresi))

    def __getitem__(self, at: float) -> nn.Module:  # type: ignore[override]  # not a list's
        return super().__getitem__(_nearest_tick(self.ticks, at))


def build_phi(
    embed_dim: int, quant_resi: float, share_quant_resi: int, count_if_not_shared: int
) -> PhiShared | PhiPartiallyShared | PhiNonShared:
    """The container for ``share_quant_resi``: 0 none shared, 1 one for all, K >= 2 K of them."""

    def one() -> nn.Module:
        return Phi(embed_dim, quant_resi) if abs(quant_resi) > 1e-6 else nn.Identity()

    if share_quant_resi < 0:
        raise ValueError(f"share_quant_resi is {share_quant_resi}, expected 0 or more")
    if share_quant_resi == 0:
        return PhiNonShared([one() for _ in range(count_if_not_shared)])
    if share_quant_resi == 1:
        return PhiShared(one())
    return PhiPartiallyShared(nn.ModuleList(one() for _ in range(share_quant_resi)))
