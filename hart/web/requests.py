"""What a visitor asks for: the values on the page, checked, with messages for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.stages import StageSchedule
from hart.pipeline import GenerationOptions
from hart.tuning.targets import Target
from hart.utils.errors import shown
from hart.utils.fields import Field, Flag, Number, Whole, check_field
from hart.utils.prompt_files import read_prompt_text

TARGETS = ("target_saved", "min_ssim")
"""Of a plan that is found on the page, both within 0 and 1."""

MAX_PROMPT_CHARACTERS = 4000
MAX_CFG_SCALE = 30.0
MAX_CALIBRATION_PROMPTS, MAX_TUNING_PROMPTS = 64, 16
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


@dataclass(frozen=True)
class TuningRequest:
    """A plan to find with some prompts and to verify on others."""

    prompts: list[str]
    held_out: list[str]
    options: GenerationOptions
    target: Target


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


def read_target(name: object, value: object) -> Target:
    """What a plan is to reach; ValueError if it is none of :data:`TARGETS`, or no share."""
    if not isinstance(name, str) or name not in TARGETS:
        raise ValueError(f"Unknown target {shown(name)}.")
    _check("The target", value, Number(0, 1))
    return Target(name, float(value))  # type: ignore[arg-type]


def read_choice(what: str, name: object, choices: Mapping[str, CacheConfig]) -> CacheConfig:
    """The configuration of that name; ValueError if there is none. ``what``: for people."""
    if not isinstance(name, str) or name not in choices:
        raise ValueError(f"Unknown {what} {shown(name)}.")
    return choices[name]


def config_fields(config: CacheConfig) -> list[Any]:
    """What the page's fields hold for a configuration, as :func:`changed_config` takes them."""
    return [
        list(config.skip_stages or ()),
        list(config.enabled_sites),
        config.threshold,
        config.adaptive_threshold,
        config.interpolation_mode,
    ]


def changed_config(
    config: CacheConfig,
    schedule: StageSchedule,
    stages: Any,
    sites: Any,
    threshold: Any,
    adaptive: Any,
    interpolation: Any,
) -> CacheConfig:
    """A configuration with what the fields hold; what they do not name stays as it is.

    Args:
        stages: token counts of the stages that may reuse; each is fed from the stage before it.
        sites: ``attn``, ``mlp``.

    Raises:
        ValueError: a stage that the model does not have or that has none before it, an unknown
            site, or a field that :class:`CacheConfig` refuses.
    """
    able = schedule.lengths[1:]
    for stage in _list("stages", stages):
        if stage not in able:
            raise ValueError(
                f"Stage {shown(stage)} cannot reuse; the stages that can are "
                f"{', '.join(map(str, able))}."
            )
    skip = sorted({int(stage) for stage in stages})
    if skip != list(config.skip_stages or ()):
        before = [schedule.lengths[schedule.index_of(n) - 1] for n in skip]
        config = replace(config, skip_stages=skip, cache_stages=before)
    for site in _list("sites", sites):
        if site not in SITES:
            raise ValueError(f"Unknown site {shown(site)}; choose from {', '.join(SITES)}.")
    _check("The threshold", threshold, Number(0, 1))
    return replace(
        config,
        enable_attn_cache="attn" in sites,
        enable_mlp_cache="mlp" in sites,
        threshold=threshold,
        adaptive_threshold=read_switch("Adapting the threshold", adaptive),
        interpolation_mode=interpolation,
    )


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"The {name} must be a list.")
    return list(value)
