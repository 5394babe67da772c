"""Named cache configurations, relative to a model's schedule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from hart.utils.names import suggestion

from .config import CacheConfig
from .stages import StageSchedule


@dataclass(frozen=True)
class CachePreset:
    """One row of the preset table.

    Attributes:
        description: one line for a command's help.
        base: the options that do not depend on the schedule.
        skip_last: how many of the last stages may be skipped, each from its predecessor.
        largest_share: but no larger share of all stages. What is drawn is decided in the first
            ones, which a short schedule would else lose; it means nothing at 14 stages.
        prune_last: shares of tokens left out at the last stages, in the order of the stages; the
            stage before them is the source.
        unguided_last: how many of the last stages are drawn without guidance.
    """

    description: str
    base: CacheConfig
    skip_last: int = 0
    largest_share: float = 1.0
    prune_last: tuple[float, ...] = ()
    unguided_last: int = 0

    def skipped(self, num_stages: int) -> int:
        """How many of the last stages of a schedule may be skipped; the first one never is."""
        return min(self.skip_last, max(1, round(self.largest_share * num_stages)), num_stages - 1)


FASTVAR_RATIOS = (0.5, 0.75)
"""Shares of tokens that FastVAR leaves out at the last two stages of HART's 1024-pixel model."""


def _reusing(**options: Any) -> CacheConfig:
    """Options of a preset that reuses; all blocks work on what the first one's MLP adds."""
    first = () if options.get("enable_mlp_cache") is False else (0,)
    return CacheConfig(compute_mlp_layers=first, **options)


NO_CACHE = CacheConfig(enable_attn_cache=False, enable_mlp_cache=False)

CACHE_PRESETS: dict[str, CachePreset] = {
    "no-cache": CachePreset("compute everything", NO_CACHE),
    "conservative": CachePreset(
        "reuse very similar modules, last stage only", _reusing(threshold=0.8), skip_last=1
    ),
    "original": CachePreset(
        "reuse similar modules in the last two stages", _reusing(), skip_last=2
    ),
    "aggressive": CachePreset(
        "last four of 14 stages, lower threshold",
        _reusing(threshold=0.6),
        skip_last=4,
        largest_share=2 / 7,
    ),
    "ultra-fast": CachePreset(
        "last six of 14 stages, lowest threshold, adapted to the images of a batch",
        _reusing(threshold=0.5, adaptive_threshold=True),
        skip_last=6,
        largest_share=3 / 7,
    ),
    "attn-only": CachePreset(
        "like original, attention only", _reusing(enable_mlp_cache=False), skip_last=2
    ),
    "mlp-only": CachePreset(
        "like original, MLP only", _reusing(enable_attn_cache=False), skip_last=2
    ),
    "high-quality": CachePreset(
        "highest threshold, bicubic interpolation, last stage only",
        _reusing(threshold=0.9, interpolation_mode="bicubic"),
        skip_last=1,
    ),
    "memory-efficient": CachePreset(
        "keep one stage of attention outputs only",
        _reusing(enable_mlp_cache=False, threshold=0.8),
        skip_last=1,
    ),
    "fastvar": CachePreset(
        "compute only the most distinctive tokens of the last two stages (FastVAR)",
        CacheConfig(),
        prune_last=FASTVAR_RATIOS,
    ),
    "hybrid": CachePreset(
        "last two stages without guidance; the last one reuses, and prunes a quarter of the rest",
        _reusing(threshold=0.8),
        skip_last=1,
        prune_last=(0.25,),
        unguided_last=2,
    ),
}


LOSSLESS = "lossless"

QUALITY_LEVELS = {
    LOSSLESS: "no-cache",
    "high": "conservative",
    "balanced": "original",
    "fast": "aggressive",
}
"""Level of quality, best first, and the preset in the place of a plan that a checkpoint lacks."""


def quality_preset(level: str) -> str:
    """The preset in the place of a level's plan.

    Raises:
        ValueError: unknown level.
    """
    if level not in QUALITY_LEVELS:
        raise ValueError(f"quality must be one of {', '.join(QUALITY_LEVELS)}; got {level!r}")
    return QUALITY_LEVELS[level]


def preset_name(config: CacheConfig, patch_nums: Iterable[int]) -> str | None:
    """The first preset that means ``config`` for a model, if there is one."""
    sides = tuple(patch_nums)
    return next((name for name in CACHE_PRESETS if preset_config(name, sides) == config), None)


def preset_config(name: str, patch_nums: Iterable[int]) -> CacheConfig:
    """The configuration that a preset means for a model.

    Skips the preset's number of last stages, see :meth:`CachePreset.skipped`, and caches the stage
    before each of them. Prunes the last ones likewise.

    Args:
        name: a key of :data:`CACHE_PRESETS`.
        patch_nums: side lengths of the model's token maps.

    Raises:
        ValueError: unknown name, or ``patch_nums`` is not a schedule.
    """
    if name not in CACHE_PRESETS:
        known = f"known are {', '.join(CACHE_PRESETS)}{suggestion(name, CACHE_PRESETS)}"
        raise ValueError(f"unknown cache preset {name!r}; {known}")
    preset = CACHE_PRESETS[name]
    schedule = StageSchedule(tuple(patch_nums))
    first = schedule.num_stages - preset.skipped(schedule.num_stages)
    pruned = min(len(preset.prune_last), schedule.num_transitions)
    ratios = preset.prune_last[len(preset.prune_last) - pruned :]
    unguided = schedule.lengths[max(1, schedule.num_stages - preset.unguided_last) :]
    return replace(
        preset.base,
        skip_stages=schedule.lengths[first:],
        cache_stages=schedule.lengths[first - 1 : -1],
        prune_stages=zip(schedule.lengths[schedule.num_stages - pruned :], ratios, strict=True),
        guidance_stop_stage=unguided[0] if unguided else None,
    )
