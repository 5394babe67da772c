"""Combinations of parameters, of which the first tier takes few and the second every pair."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pytest
import torch

from hart.modules.networks.caching.presets import CACHE_PRESETS

KINDS = ("ultra-fast", "hybrid", "original", "no-cache")
"""A preset of each kind of plan: found while drawing, with left-out tokens, known before, none."""
PRESETS = (*KINDS, *(name for name in CACHE_PRESETS if name not in KINDS))


def product(first: int | None = None, /, **axes: Sequence) -> pytest.MarkDecorator:
    """Parametrise by combinations of the axes' values.

    The first tier has ``first`` of them, in which every axis goes through its values; by default
    so many that it has each value. The second tier has as many more as it takes for every value to
    meet every value of every other axis.
    """
    indices = [range(len(values)) for values in axes.values()]
    count = max(map(len, indices)) if first is None else first
    quick = {tuple(i % len(axis) for axis in indices) for i in range(count)}
    cases = [
        pytest.param(
            *(values[i] for values, i in zip(axes.values(), case, strict=True)),
            marks=() if case in quick else pytest.mark.slow,
        )
        for case in sorted(_with_every_pair(quick, indices))
    ]
    return pytest.mark.parametrize(tuple(axes), cases, ids=_id)


def _with_every_pair(quick: Iterable[tuple], indices: Sequence[range]) -> set[tuple]:
    """``quick`` and, while pairs are missing, whatever has most of them."""
    found = {case: _pairs(case) for case in itertools.product(*indices)}
    missing = set.union(*found.values()).difference(*(found[case] for case in quick))
    chosen = set(quick)
    while missing:
        best = max(found, key=lambda case: len(found[case] & missing))
        chosen.add(best)
        missing -= found[best]
    return chosen


def _pairs(case: tuple) -> set[tuple]:
    """What values of two axes meet in a case; of a single axis, its value."""
    return set(itertools.combinations(enumerate(case), min(2, len(case))))


def _id(value: object) -> str | None:
    """Of a dtype its name; pytest's own else."""
    return str(value) if isinstance(value, torch.dtype) else None
