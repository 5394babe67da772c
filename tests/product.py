"""All combinations of parameters, of which the first tier takes few."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch

from hart.modules.networks.caching.presets import CACHE_PRESETS

KINDS = ("no-cache", "original", "ultra-fast", "hybrid")
"""A preset of each kind of plan: none, known before, found while drawing, with left-out tokens."""
PRESETS = (*KINDS, *(name for name in CACHE_PRESETS if name not in KINDS))


def product(first: int | None = None, /, **axes: Sequence) -> pytest.MarkDecorator:
    """Parametrise by all combinations of the axes' values.

    The first tier has ``first`` of them, in which every axis goes through its values; by default
    so many that it has each value. The second tier has the rest.
    """
    indices = [range(len(values)) for values in axes.values()]
    count = max(map(len, indices)) if first is None else first
    quick = {tuple(i % len(axis) for axis in indices) for i in range(count)}
    cases = [
        pytest.param(
            *(values[i] for values, i in zip(axes.values(), case, strict=True)),
            marks=() if case in quick else pytest.mark.slow,
        )
        for case in itertools.product(*indices)
    ]
    return pytest.mark.parametrize(tuple(axes), cases, ids=_id)


def _id(value: object) -> str | None:
    """Of a dtype its name; pytest's own else."""
    return str(value) if isinstance(value, torch.dtype) else None
