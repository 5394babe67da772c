"""The arithmetic of cached token pruning: which tokens are kept, and what the others take.

FastVAR, arXiv 2503.23367, section 3: the tokens that differ most from the mean of all carry the
detail that a stage adds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hart.utils.resize import average_areas

from .interpolate import map_of, tokens_of


def distinctiveness(x: Tensor) -> Tensor:
    """Squared distance of every token to the mean of its row's tokens, in float32.

    Args:
        x: residual stream before the norm, ``(B, L, C)``.

    Returns:
        ``(B, L)``. Rows do not influence each other.
    """
    x = x.float()
    return (x - x.mean(dim=1, keepdim=True)).square().sum(dim=-1)


def split_tokens(x: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The ``keep`` most distinctive tokens of every row, and the others.

    Args:
        x: ``(B, L, C)``, see :func:`distinctiveness`.
        keep: how many, 1 to L.

    Returns:
        Indices ``(B, keep)`` and ``(B, L - keep)``, int64, ascending. Of equal tokens the earlier
        ones are kept, so that every device keeps the same.
    """
    return split_by(distinctiveness(x), keep)


def map_changes(before: Tensor, after: Tensor, side: int) -> Tensor:
    """How much a stage changed the direction of the feature map at every token of the next one.

    ``1 - cosine`` over channels, in float32, averaged over each token's area.

    Args:
        before, after: feature maps (B, Z, P, P).
        side: of the next stage's token map.

    Returns:
        ``(B, side**2)``.
    """
    change = 1 - torch.cosine_similarity(before.float(), after.float(), dim=1)
    return average_areas(change.unsqueeze(1), (side, side)).flatten(1)


def split_by(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """As :func:`split_tokens`, by scores (B, L) of which the largest are kept."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    return order[:, :keep].sort(dim=1).values, order[:, keep:].sort(dim=1).values


def resize_area(x: Tensor, source_side: int, target_side: int) -> Tensor:
    """Resize a token map to another square one, larger or smaller, by averaging.

    On each axis a target cell is the mean of the source cells that it touches.

    Args:
        x: ``(B, source_side**2, C)``, tokens in row-major order, any float dtype and device.

    Returns:
        ``(B, target_side**2, C)``, dtype and device of ``x``; ``x`` itself if the sides are equal.

    Raises:
        ValueError: ``x`` is not such a map.
    """
    grid = map_of(x, source_side)
    if target_side == source_side:
        return x
    return tokens_of(average_areas(grid, (target_side, target_side)), x.dtype)


def restore_tokens(kept: Tensor, index: Tensor, full: Tensor) -> Tensor:
    """``full`` (B, L, C) with ``kept`` (B, n, C) in its place at the positions ``index`` (B, n)."""
    return full.scatter(1, index.unsqueeze(-1).expand(-1, -1, full.shape[-1]), kept.to(full.dtype))
