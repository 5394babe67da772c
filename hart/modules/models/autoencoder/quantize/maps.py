"""Token sequences and maps: sizes of the stages, reshaping, resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hart.modules.networks.caching.numbers import plain
from hart.utils.resize import average_areas

PatchNums = Sequence["int | tuple[int, int]"]
"""Stages of a schedule: sides, or (height, width) pairs, smallest first."""


def stage_sizes(patch_nums: PatchNums) -> list[tuple[int, int]]:
    """(height, width) of every stage."""
    sizes = (plain(pn) for pn in patch_nums)
    return [(pn, pn) if isinstance(pn, int) else (int(pn[0]), int(pn[1])) for pn in sizes]


def square_side(tokens: int) -> int:
    """Side of a square map of that many tokens; ``ValueError`` if there is none."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"a stage has {tokens} tokens, expected a square number")
    return side


def to_map(tokens_BLC: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, h * w, C), row by row -> (B, C, h, w)."""
    return tokens_BLC.transpose(1, 2).reshape(tokens_BLC.shape[0], tokens_BLC.shape[2], *size)


def to_rows(map_BChw: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B * h * w, C)."""
    return map_BChw.permute(0, 2, 3, 1).reshape(-1, map_BChw.shape[1])


# Half precision is resized in float32: not every backend has the kernels, and the maps are small.


def upsample(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bicubic interpolation; ``x`` itself if it has that size already."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x.float(), size=size, mode="bicubic").to(x.dtype)


def downsample(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Mean over the area of each target cell; always a new tensor."""
    return average_areas(x.float(), size).to(x.dtype)
