"""What a visitor asks for: the values on the page, checked, with messages for people."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.modules.networks.caching.stages import StageSchedule
from hart.pipeline import GenerationOptions
from hart.utils.prompt_files import read_prompt_text

CUSTOM = "custom"
"""Beside the presets' names: a preset with changes of the visitor's own."""

DEFAULT_PRESET = "original"
MAX_PROMPT_CHARACTERS = 4000
MAX_CFG_SCALE = 30.0
MAX_CALIBRATION_PROMPTS = 64
# Above it a browser's numbers have gaps.
_MAX_SEED = 2**53 - 1


@dataclass(frozen=True)
class DrawRequest:
    """Images to draw.

    Attributes:
        prompts: one per image.
        options: sampling options.
        name: what the page calls the cache configuration.
        config: the cache configuration.
        compare: also draw the images without caching and compare.
        previews: show the pictures of every stage.
    """

    prompts: list[str]
    options: GenerationOptions
    name: str
    config: CacheConfig
    compare: bool = False
    previews: bool = True


@dataclass(frozen=True)
class CalibrationRequest:
    """Images to measure similarities on.

    Attributes:
        prompts: one per image.
        options: sampling options.
        add: add to the table that is in use instead of starting from nothing.
    """

    prompts: list[str]
    options: GenerationOptions
    add: bool = False


def read_prompts(text: object, limit: int) -> list[str]:
    """One prompt per line, as in a file; empty lines and lines that start with # are skipped.

    Raises:
        ValueError: not text, none, too many, or one is too long.
    """
    if not isinstance(text, str | None):
        raise ValueError("The prompts must be text, one per line.")
    rows = list(read_prompt_text(text or ""))
    for row in rows:
        if row.error is not None:
            raise ValueError(f"Line {row.line}: {row.error}.")
    prompts = [row.fields["prompt"] for row in rows]
    if not prompts:
        raise ValueError("Write at least one prompt, one per line.")
    if len(prompts) > limit:
        raise ValueError(f"{len(prompts)} prompts are too many; this page takes {limit} at a time.")
    for number, prompt in enumerate(prompts, start=1):
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"Prompt {number} has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS} "
                "are allowed."
            )
    return prompts


def read_options(seed: object, cfg_scale: object) -> GenerationOptions:
    """Sampling options from two numbers.

    Raises:
        ValueError: one is not a number, or out of range.
    """
    seed = _number("seed", seed)
    if not 0 <= seed <= _MAX_SEED or seed != int(seed):
        raise ValueError(
            f"The seed must be a whole number from 0 to {_MAX_SEED}, got {_shown(seed)}."
        )
    scale = _number("guidance scale", cfg_scale)
    if not 0 <= scale <= MAX_CFG_SCALE:
        raise ValueError(
            f"The guidance scale must be within 0 and {MAX_CFG_SCALE:g}, got {_shown(scale)}."
        )
    return GenerationOptions(seed=int(seed), cfg_scale=float(scale))


def _number(name: str, value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"The {name} must be a number.")
    return value


def _shown(number: float) -> str:
    """A number in a message: JSON has integers that are too large for a float, and long ones."""
    if isinstance(number, float):
        return f"{number:g}"
    return str(number) if abs(number) < 10**20 else "a far larger one"


def read_switch(name: str, value: object) -> bool:
    """True or False.

    Raises:
        ValueError: neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false.")
    return value


def read_preset(preset: object, schedule: StageSchedule) -> CacheConfig:
    """The cache configuration of a preset.

    Raises:
        ValueError: unknown preset.
    """
    if not isinstance(preset, str) or preset not in CACHE_PRESETS:
        raise ValueError(f"Unknown preset {preset!r:.80}.")
    return preset_config(preset, schedule.patch_nums)


def read_config(
    preset: object,
    schedule: StageSchedule,
    stages: object = (),
    sites: object = (),
    threshold: object = CacheConfig.threshold,
    adaptive: object = False,
    interpolation: object = CacheConfig.interpolation_mode,
    base: object = None,
) -> CacheConfig:
    """The cache configuration of a preset, or with :data:`CUSTOM` the one that the rest says.

    Args:
        stages: token counts of the stages that may reuse; each is fed from the stage before it.
        sites: ``attn``, ``mlp``.
        base: the preset that the other arguments change; what they do not name stays as it is
            there. None: an empty configuration.

    Raises:
        ValueError: unknown preset, a stage that the model does not have or that has none before
            it, an unknown site, or a field that :class:`CacheConfig` refuses.
    """
    if preset != CUSTOM:
        return read_preset(preset, schedule)
    config = CacheConfig() if base is None else read_preset(base, schedule)
    skip = _stages(stages, schedule)
    if skip != list(config.skip_stages):
        before = [schedule.lengths[schedule.index_of(n) - 1] for n in skip]
        config = replace(config, skip_stages=skip, cache_stages=before)
    chosen = _list("sites", sites)
    for site in chosen:
        if site not in SITES:
            raise ValueError(f"Unknown site {site!r:.80}; choose from {', '.join(SITES)}.")
    threshold = _number("threshold", threshold)
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold must be within 0 and 1, got {_shown(threshold)}.")
    return replace(
        config,
        enable_attn_cache="attn" in chosen,
        enable_mlp_cache="mlp" in chosen,
        threshold=threshold,
        adaptive_threshold=read_switch("Adapting the threshold", adaptive),
        interpolation_mode=interpolation,
    )


def _stages(stages: object, schedule: StageSchedule) -> list[int]:
    skip = {_number("list of stages", stage) for stage in _list("stages", stages)}
    unknown = [n for n in skip if n not in schedule.lengths[1:]]
    if unknown:
        raise ValueError(
            f"Stage {_shown(unknown[0])} cannot reuse; the stages that can are "
            f"{', '.join(map(str, schedule.lengths[1:]))}."
        )
    return sorted(map(int, skip))


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, list | tuple | set):
        raise ValueError(f"The {name} must be a list.")
    return list(value)
