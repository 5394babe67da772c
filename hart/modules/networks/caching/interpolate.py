"""Resizing a module's output from one token map to a larger one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import INTERPOLATION_MODES


def interpolate_features(x: Tensor, source_side: int, target_side: int, mode: str) -> Tensor:
    """Resize the token map ``x`` to a larger square map.

    ``bilinear`` and ``bicubic`` align the corner tokens of both maps (``align_corners=True``), as
    VAR's feature caching does.

    Args:
        x: ``(B, source_side**2, C)``, tokens in row-major order, any float dtype and device.
        source_side: side of the map that ``x`` holds.
        target_side: side of the wanted map, at least ``source_side``.
        mode: one of :data:`INTERPOLATION_MODES`.

    Returns:
        ``(B, target_side**2, C)``, contiguous, dtype and device of ``x``. With equal sides this
        is ``x`` itself if it is contiguous.

    Raises:
        ValueError: unknown mode, ``x`` is not such a map, or the target is smaller.
    """
    if mode not in INTERPOLATION_MODES:
        raise ValueError(f"mode must be one of {', '.join(INTERPOLATION_MODES)}; got {mode!r}")
    grid = map_of(x, source_side)
    if target_side < source_side:
        raise ValueError(f"target_side must be at least {source_side}, got {target_side}")
    if target_side == source_side:
        return x.contiguous()
    corners = None if mode == "nearest" else True
    resized = F.interpolate(grid, size=(target_side, target_side), mode=mode, align_corners=corners)
    return tokens_of(resized, x.dtype)


def map_of(x: Tensor, side: int) -> Tensor:
    """``(B, side**2, C)`` tokens as a map ``(B, C, side, side)`` that can be resized.

    Raises:
        ValueError: ``x`` is not such a map.
    """
    if x.dim() != 3 or x.shape[1] != side * side:
        raise ValueError(
            f"x must be (B, {side}*{side}, C) for a map of side {side}, got {tuple(x.shape)}"
        )
    # In channels-last order the map needs no copy on the way in and none on the way out.
    grid = x.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if x.dtype in (torch.float16, torch.bfloat16) and x.device.type != "cuda":
        grid = grid.float()  # not every backend has half kernels for every mode
    return grid


def tokens_of(grid: Tensor, dtype: torch.dtype) -> Tensor:
    """A map ``(B, C, s, s)`` as tokens ``(B, s * s, C)``, contiguous."""
    return grid.permute(0, 2, 3, 1).flatten(1, 2).to(dtype).contiguous()


def select_positions(x: Tensor, index: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Take a subset of each row's tokens, as a masked last stage does.

    Args:
        x: ``(B, L, C)``.
        index: ``(B, n)`` int64 positions per row, or the pair of index tensors (rows, positions)
            that ``nonzero(as_tuple=True)`` of a ``(B, L)`` mask with equally many positions in
            every row gives (``m_maskgit``).

    Returns:
        ``(B, n, C)``, contiguous, in the order of ``index``.

    Raises:
        ValueError: the index does not fit ``x``.
    """
    B, _, C = x.shape
    if isinstance(index, Tensor):
        if index.dim() != 2 or index.shape[0] != B:
            raise ValueError(f"index must be ({B}, n) for {B} rows, got {tuple(index.shape)}")
        return x.gather(1, index.unsqueeze(-1).expand(-1, -1, C))
    rows, positions = index
    if rows.shape != positions.shape or rows.dim() != 1 or rows.numel() % B:
        raise ValueError(
            f"index must be two vectors with equally many positions for each of {B} rows, "
            f"got {tuple(rows.shape)} and {tuple(positions.shape)}"
        )
    return x[rows, positions].view(B, -1, C)
