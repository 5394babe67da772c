"""What the page can draw with: levels of quality, plans, and presets to change."""

from __future__ import annotations

import json
from typing import Any

from hart.evaluation.comparison import REFERENCE
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.plan import Plan, decide_all, place_of
from hart.modules.networks.caching.plan_files import StoredPlan
from hart.modules.networks.caching.plan_format import any_config_from_dict
from hart.modules.networks.caching.presets import (
    CACHE_PRESETS,
    LOSSLESS,
    NO_CACHE,
    QUALITY_LEVELS,
    preset_config,
)
from hart.modules.networks.caching.tuned_config import TunedConfig
from hart.pipeline import HARTPipeline
from hart.web.requests import (
    changed_config,
    config_fields,
    read_choice,
    read_options,
    read_prompts,
)

DEFAULT_QUALITY = "balanced"
CUSTOM = "custom"
"""A preset or plan with changes of the visitor's own."""
GIVEN, TUNED = "plan", "tuned"
"""The plan that the page was started with, and the last one that was found on it."""


class Choices:
    """The names of what can be drawn with, and what each does.

    Args:
        pipeline: the model.
        given: a plan to offer, and to draw with unless something else is chosen.
        first: else, the level to begin with.

    Attributes:
        first: the name that is chosen in the beginning.
        plans: those there are, by name.

    Raises:
        ValueError, OSError: one of the checkpoint's own plans cannot be used.
    """

    def __init__(
        self, pipeline: HARTPipeline, given: StoredPlan | None = None, first: str | None = None
    ) -> None:
        self._model = pipeline.transformer
        self._levels = pipeline.quality_configs()
        self.plans = pipeline.quality_plans() | ({} if given is None else {GIVEN: given})
        self.first = first or (DEFAULT_QUALITY if given is None else GIVEN)
        sides = self._model.patch_nums
        self._presets = {name: preset_config(name, sides) for name in CACHE_PRESETS}

    @property
    def qualities(self) -> dict[str, CacheConfig]:
        """What is drawn with as it is, by name."""
        return self._levels | {name: plan.config for name, plan in self.plans.items()}

    @property
    def bases(self) -> dict[str, CacheConfig]:
        """What the fields change, by name; of plans what fields can say."""
        plans = {name: editable(plan.config) for name, plan in self.plans.items()}
        return self._presets | plans

    def base_of(self, quality: object) -> str:
        """What the fields change after a quality was chosen."""
        read_choice("quality", quality, self.qualities)
        return str(quality) if quality in self.plans else QUALITY_LEVELS[str(quality)]

    def read(self, quality: Any, base: Any, *fields: Any) -> tuple[str, CacheConfig]:
        """Name and configuration to draw with.

        Args:
            quality: a name; with :data:`CUSTOM` the rest counts.
            base: what ``fields`` change.
            fields: see :func:`changed_config`.

        Raises:
            ValueError: an unknown name, or a value that is not allowed.
        """
        if quality != CUSTOM:
            config = read_choice("quality", quality, self.qualities)
            return REFERENCE if config == NO_CACHE else quality, config
        start = read_choice("preset", base, self.bases)
        config = changed_config(start, self._model.schedule, *fields)
        return base if config == self._presets.get(base) else CUSTOM, config

    def fields(self, base: object) -> list[Any]:
        """What the fields hold for one of :attr:`bases`; ValueError if there is none."""
        return config_fields(read_choice("preset", base, self.bases))

    def map_of(self, config: CacheConfig) -> Plan:
        """What is done with the similarity table that is in use now."""
        if isinstance(config, TunedConfig):
            return config.plan
        return decide_all(config, self._model.schedule, self._model.similarity)

    def words(self, quality: str) -> str:
        """What a quality does, in a sentence or two."""
        if quality in self.plans:
            return plan_words(self.plans[quality])
        if quality == LOSSLESS:
            return "Everything is computed: nothing is saved, and nothing changes."
        preset = QUALITY_LEVELS[quality]
        return (
            f"{CACHE_PRESETS[preset].description.capitalize()}: the preset {preset}, as this "
            "checkpoint has no plan of its own for that."
        )

    def restored(self, recipe: object) -> list[Any]:
        """Prompt, seed, guidance, quality, base and fields that a picture was drawn with.

        Args:
            recipe: the texts in its file as a JSON object, as a browser has read them.

        Raises:
            ValueError: they are not there, or say what the page has no fields for.
        """
        try:
            texts = json.loads(recipe) if isinstance(recipe, str) else {}
            numbers = (json.loads(texts[name]) for name in ("seed", "cfg_scale"))
            options = read_options(*numbers)
            config = any_config_from_dict(json.loads(texts["cache_config"]))
            (prompt,) = read_prompts(texts["prompt"], 1)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError("This picture does not say how it was drawn.") from None
        quality, base = self._name_of(config)
        fields = config_fields(editable(config))
        return [prompt, options.seed, options.cfg_scale, quality, base, *fields]

    def _name_of(self, config: CacheConfig) -> tuple[str, str]:
        """Quality and base that mean a configuration."""
        if not config.changes_anything:
            return LOSSLESS, self.base_of(LOSSLESS)
        for name, known in self.qualities.items():
            if known == config:
                return name, self.base_of(name)
        for name, known in self.bases.items():
            fields = config_fields(config)
            if changed_config(known, self._model.schedule, *fields) == config:
                return CUSTOM, name
        raise ValueError("This picture was drawn with settings that the page has no fields for.")


def editable(config: CacheConfig) -> CacheConfig:
    """What fields can say about a configuration: not which module of a plan does what."""
    if not isinstance(config, TunedConfig):
        return config
    sites = {place_of(module)[1] for _, module in config.reused}
    return CacheConfig(
        config.skip_stages,
        config.cache_stages,
        enable_attn_cache=not sites or "attn" in sites,
        enable_mlp_cache="mlp" in sites,
        interpolation_mode=config.interpolation_mode,
        prune_stages=config.prune_stages,
        guidance_stop_stage=config.guidance_stop_stage,
    )


def plan_words(plan: StoredPlan) -> str:
    """What is known about a plan, in a sentence."""
    figures = plan.measured or plan.predicted
    forms = {
        "speedup": "{:.1f} times as fast as without caching",
        "saved_share": "{:.0%} of the work saved",
        "ssim": "a likeness (SSIM) of {:.3f}",
    }
    known = [form.format(figures[name]) for name, form in forms.items() if figures.get(name)]
    when = "measured when the plan was made" if plan.measured else "as predicted"
    return f"{', '.join(known)}: {when}." if known else "A plan of which no figures are known."
