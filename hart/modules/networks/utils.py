"""Drawing token ids from logits, and stochastic depth."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn


def filter_top_k_top_p_(
    logits_BlV: torch.Tensor, top_k: int = 0, top_p: float = 0.0
) -> torch.Tensor:
    """Set logits outside the ``top_k`` largest and the ``top_p`` nucleus to -inf, in place.

    Ties at the ``top_k`` threshold survive; the most likely entry always survives ``top_p``.

    Args:
        logits_BlV: (B, l, V).
        top_k: 0 means off; larger than V means V.
        top_p: 0 means off, else the mass in (0, 1] that is kept.
    """
    if top_k > 0:
        kth = _kth_largest(logits_BlV, min(top_k, logits_BlV.shape[-1]))
        logits_BlV.masked_fill_(logits_BlV < kth, -torch.inf)
    if top_p > 0:
        ordered, order = logits_BlV.sort(dim=-1, descending=False)
        drop = ordered.softmax(dim=-1).cumsum(dim=-1) <= (1 - top_p)
        drop[..., -1] = False
        logits_BlV.masked_fill_(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
    return logits_BlV


def _kth_largest(x: torch.Tensor, k: int) -> torch.Tensor:
    """(..., V) to (..., 1). On a CPU selecting one value takes half as long as k in their order."""
    if x.device.type == "cpu":
        return x.kthvalue(x.shape[-1] - k + 1, dim=-1, keepdim=True).values
    return x.topk(k, dim=-1).values[..., -1:]


def sample_with_top_k_top_p_(
    logits_BlV: torch.Tensor,
    top_k: int = 0,
    top_p: float = 0.0,
    rng: torch.Generator | None = None,
    num_samples: int = 1,
) -> torch.Tensor:
    """Draw token ids after top-k and top-p filtering; the logits are filtered in place.

    Args:
        logits_BlV: (B, l, V) float logits; hold -inf at removed entries afterwards.
        top_k, top_p: see :func:`filter_top_k_top_p_`.
        rng: generator of the draw, None for the device's default one.
        num_samples: draws per position, with replacement; negative means without replacement.

    Returns:
        (B, l, abs(num_samples)) int64.
    """
    B, length, V = logits_BlV.shape
    probabilities = filter_top_k_top_p_(logits_BlV, top_k, top_p).softmax(dim=-1).view(-1, V)
    ids = torch.multinomial(
        probabilities, abs(num_samples), replacement=num_samples >= 0, generator=rng
    )
    return ids.view(B, length, abs(num_samples))


def gumbel_softmax_with_rng(
    logits: torch.Tensor,
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
    rng: torch.Generator | None = None,
) -> torch.Tensor:
    """Gumbel softmax (Jang et al., arXiv 1611.01144) with an explicit generator.

    Args:
        logits: unnormalised log-probabilities, any shape; -inf gets weight 0.
        tau: temperature.
        hard: return one-hot vectors with the gradient of the soft ones.
        eps: accepted for compatibility with :func:`torch.nn.functional.gumbel_softmax`, unused.
        dim: the axis of the classes.
        rng: generator of the single Exp(1) draw, None for the device's default one.
    """
    exponential = torch.empty_like(logits, memory_format=torch.legacy_contiguous_format)
    return gumbel_softmax(logits, tau, exponential.exponential_(generator=rng), hard, dim)


def gumbel_softmax(
    logits: torch.Tensor,
    tau: float,
    exponential: torch.Tensor,
    hard: bool = False,
    dim: int = -1,
) -> torch.Tensor:
    """Gumbel softmax from given Exp(1) variates of the logits' shape."""
    soft = ((logits - exponential.log()) / tau).softmax(dim)
    if not hard:
        return soft
    one_hot = F.one_hot(soft.argmax(dim), soft.shape[dim]).movedim(-1, dim).to(soft.dtype)
    return one_hot - soft.detach() + soft


def drop_path(
    x: torch.Tensor, drop_prob: float = 0.0, training: bool = False, scale_by_keep: bool = True
) -> torch.Tensor:
    """Stochastic depth: drop whole samples of ``x`` (B, ...) with probability ``drop_prob``."""
    if drop_prob == 0.0 or not training:
        return x
    keep_prob = 1 - drop_prob
    keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep_prob)
    if scale_by_keep and keep_prob > 0.0:
        keep.div_(keep_prob)
    return x * keep


class DropPath(nn.Module):
    """Stochastic depth as a module; the identity in eval mode."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True):
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return drop_path(x, self.drop_prob, self.training, self.scale_by_keep)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}"


def mask_by_order(mask_len: int, order: torch.Tensor, bsz: int, seq_len: int) -> torch.Tensor:
    """(bsz, seq_len) bool, True at the first ``mask_len`` entries of each row of ``order``."""
    mask = torch.zeros(bsz, seq_len, dtype=torch.bool, device=order.device)
    return mask.scatter_(1, order[:, : int(mask_len)].long(), True)


def chunks_of(orders: torch.Tensor, iterations: int) -> Iterator[torch.Tensor]:
    """(B, n) int64 per chunk: the positions that it predicts, ascending, of orders (B, L)."""
    positions = remaining = orders.shape[1]
    for step in range(iterations):
        before, remaining = remaining, 0
        if step < iterations - 1 and before > 1:
            cosine = math.floor(positions * math.cos(math.pi / 2 * (step + 1) / iterations))
            remaining = max(1, min(before - 1, cosine))
        yield orders[:, remaining:before].sort(dim=1).values
        if not remaining:
            return
