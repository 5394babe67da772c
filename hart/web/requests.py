"""What a visitor asks for: the values on the page, checked, with messages for people."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.modules.networks.caching.stages import StageSchedule
from hart.pipeline import GenerationOptions
from hart.utils.errors import shown
from hart.utils.fields import Field, Flag, Number, Whole, check_field
from hart.utils.prompt_files import read_prompt_text

CUSTOM = "custom"
"""Beside the presets' names: a preset with changes of the visitor's own."""

DEFAULT_PRESET = "original"
MAX_PROMPT_CHARACTERS = 4000
MAX_CFG_SCALE = 30.0
MAX_CALIBRATION_PROMPTS = 64
_SEED = Whole(0, 2**53 - 1)  # above it a browser's numbers have gaps


@dataclass(frozen=True)
class DrawRequest:
    """Images to draw, one per prompt.

    Attributes:
        name: what the page calls the cache configuration.
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
    """Images to measure similarities on; ``add`` to the table that is in use, or anew."""

    prompts: list[str]
    options: GenerationOptions
    add: bool = False


def _check(name: str, value: object, kind: Field) -> None:
    """:func:`check_field` in a sentence, as all that the page says."""
    try:
        check_field(name, value, kind)
    except ValueError as error:
        raise ValueError(f"{error}.") from None


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


def read_options(seed: Any, cfg_scale: Any) -> GenerationOptions:
    """Sampling options from two numbers; ValueError if one is none, or out of range."""
    if isinstance(seed, float) and seed.is_integer():
        seed = int(seed)  # a browser has one kind of numbers
    _check("The seed", seed, _SEED)
    _check("The guidance scale", cfg_scale, Number(0, MAX_CFG_SCALE))
    return GenerationOptions(seed=seed, cfg_scale=float(cfg_scale))


def read_switch(name: str, value: object) -> bool:
    """True or False; ValueError if it is neither."""
    _check(name, value, Flag())
    return bool(value)


def read_preset(preset: object, schedule: StageSchedule) -> CacheConfig:
    """The cache configuration of a preset; ValueError if there is none of that name."""
    if not isinstance(preset, str) or preset not in CACHE_PRESETS:
        raise ValueError(f"Unknown preset {shown(preset)}.")
    return preset_config(preset, schedule.patch_nums)


def read_config(
    preset: Any,
    schedule: StageSchedule,
    stages: Any = (),
    sites: Any = (),
    threshold: Any = CacheConfig.threshold,
    adaptive: Any = False,
    interpolation: Any = CacheConfig.interpolation_mode,
    base: Any = None,
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
    able = schedule.lengths[1:]
    for stage in _list("stages", stages):
        if stage not in able:
            raise ValueError(
                f"Stage {shown(stage)} cannot reuse; the stages that can are "
                f"{', '.join(map(str, able))}."
            )
    skip = sorted({int(stage) for stage in _list("stages", stages)})
    if skip != list(config.skip_stages or ()):
        before = [schedule.lengths[schedule.index_of(n) - 1] for n in skip]
        config = replace(config, skip_stages=skip, cache_stages=before)
    chosen = _list("sites", sites)
    for site in chosen:
        if site not in SITES:
            raise ValueError(f"Unknown site {shown(site)}; choose from {', '.join(SITES)}.")
    _check("The threshold", threshold, Number(0, 1))
    return replace(
        config,
        enable_attn_cache="attn" in chosen,
        enable_mlp_cache="mlp" in chosen,
        threshold=threshold,
        adaptive_threshold=read_switch("Adapting the threshold", adaptive),
        interpolation_mode=interpolation,
    )


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"The {name} must be a list.")
    return list(value)
