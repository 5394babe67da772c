"""How often a measurement is repeated."""

from __future__ import annotations

DEFAULT_RUNS = 5
"""Measured runs of one configuration."""

DEFAULT_ROUNDS = 3
"""Measured rounds of a comparison, one run of every configuration each."""

DEFAULT_WARMUP = 1
"""Runs or rounds before them that are not measured."""


def check_runs(runs: int, warmup: int) -> None:
    """Refuse numbers of runs that measure nothing.

    Raises:
        ValueError: ``runs`` is below 1 or ``warmup`` below 0.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}, must be at least 1")
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}, must not be negative")
