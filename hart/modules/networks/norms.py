"""Root-mean-square norms with the rounding of half-precision Llama kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def _normalise(x: torch.Tensor, eps: float) -> torch.Tensor:
    """``x / rms(x)`` over the last axis, computed in float32 and rounded to ``x.dtype``."""
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class LlamaRMSNorm(nn.Module):
    """RMS norm whose product with the weight follows ordinary type promotion."""

    def __init__(self, hidden_size: int, eps: float = 1e-6, scale: float = 1.0, **kwargs):
        super().__init__()
        self.weight = nn.Parameter(torch.full((hidden_size,), float(scale)))
        self.variance_epsilon = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * _normalise(x, self.variance_epsilon)


class LlamaRMSNormFused(nn.Module):
    """RMS norm that returns the input's dtype: the weight is rounded to it first.

    On CUDA the product with the weight is not rounded a second time: the kernel, torch's own, keeps
    everything in float32 up to its end.

    Keywords of other norms (``elementwise_affine``, ``scale``) are accepted and have no effect.
    With ``use_quant`` the result is int8, rounded to nearest and saturating.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6, use_quant: bool = False, **kwargs):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps
        self.use_quant = use_quant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.use_quant:
            scaled = _normalise(x.float(), self.variance_epsilon) * self.weight.float()
            return scaled.round().clamp(-128, 127).to(torch.int8)
        weight = self.weight.to(x.dtype)
        if x.device.type == "cuda":  # one kernel instead of eight
            return F.rms_norm(x, list(weight.shape), weight, self.variance_epsilon).to(x.dtype)
        return _normalise(x, self.variance_epsilon) * weight
