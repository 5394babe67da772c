"""Cached token pruning as data: how many tokens are left out where, and what stands in for them.

FastVAR, arXiv 2503.23367. The decision for one module is ``decisions.decide_module``; the
arithmetic on tokens is in ``pruning.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .config import CacheConfig
from .stages import StageSchedule


@dataclass(frozen=True)
class PrunePlan:
    """What a configuration's pruning means for one model.

    Attributes:
        ratios: per stage index the share of tokens that is left out, 0 for none.
        source: index of the stage whose outputs stand in for those of left-out tokens; None if
            nothing is pruned.
    """

    ratios: tuple[float, ...]
    source: int | None = None


@lru_cache(maxsize=128)
def prune_plan(config: CacheConfig, schedule: StageSchedule) -> PrunePlan:
    """Resolve the pruned stages. Without a stage to take outputs from nothing is pruned."""
    resolved = config.resolve(schedule)
    if resolved.prune_source is None:
        return PrunePlan((0.0,) * schedule.num_stages)
    ratios = dict(resolved.prune_stages)
    return PrunePlan(
        tuple(ratios.get(length, 0.0) for length in schedule.lengths),
        schedule.index_of(resolved.prune_source),
    )


def kept_tokens(tokens: int, ratio: float) -> int:
    """How many of ``tokens`` are computed when the share ``ratio`` is left out; at least 1.

    ``tokens - int(tokens * ratio)``, with the float product cut off, as FastVAR does.
    """
    return max(1, tokens - int(tokens * ratio))


def guidance_stop(config: CacheConfig, schedule: StageSchedule) -> int | None:
    """Index of the stage from which on there is no guidance; None if there always is."""
    stop = config.guidance_stop_stage
    return schedule.index_of(stop) if stop in schedule.lengths else None
