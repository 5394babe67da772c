"""Which module computes, reuses or stores at which stage.

The decisions depend only on the configuration, the schedule and the similarity table, so they are
known before a generation starts. :func:`decide_module` is the one rule; :func:`decide_all` walks
it over a whole generation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .config import SITES, CacheConfig
from .prune_plan import prune_plan
from .similarity import SimilarityTables
from .stages import StageSchedule, format_stages

PROBE = 0
"""The block that measures the running generation for the adaptive threshold."""
OPENING = 1
"""The stage after the first one, at which it measures in any case."""
LEAST_DISSIMILARITY = 1e-4
"""Below it a probe's outputs count as equal, so that ratios of rounding errors decide nothing."""


@dataclass(frozen=True)
class Action:
    """What one module does at one stage.

    Attributes:
        reuse: take the interpolated stored output instead of computing.
        store: keep the output, computed or reused, for the next stage. Without it, whatever was
            stored before is dropped.
        ratio: share of the tokens that is left out of the computation, see
            :func:`~.prune_plan.kept_tokens`. A reused module leaves out none: it computes none.
        store_source: keep the output for the left-out tokens of all pruned stages.
        store_keys: keep the keys and values for tokens of later stages that have none.
    """

    reuse: bool = False
    store: bool = False
    ratio: float = 0.0
    store_source: bool = False
    store_keys: bool = False


COMPUTE = Action()


def is_eligible(
    config: CacheConfig, schedule: StageSchedule, site: str, si: int, layer: int | None = None
) -> bool:
    """Whether the configuration lets ``site`` be reused at stage ``si``, whatever the table.

    In block ``layer``; without one, in any that the configuration does not name.
    """
    return (
        si > 0
        and config.is_enabled(site)
        and schedule.lengths[si] in config.skip_stages
        and layer not in config.computed_layers(site)
    )


def probed_stages(config: CacheConfig, schedule: StageSchedule) -> tuple[int, ...]:
    """Indices of the stages at which the adaptive threshold's probe measures, in their order.

    :data:`OPENING`, where what the 2x2 map adds to the 1x1 map tells pictures apart that look alike
    later, and the last stage before the first that may reuse anything. Both are computed anyway.
    None without an adaptive threshold, or if the first stage that may reuse is :data:`OPENING`.
    """
    if not config.adaptive_threshold:
        return ()
    lengths = schedule.lengths
    for si in range(1, schedule.num_stages):
        if lengths[si] in config.skip_stages and lengths[si - 1] in config.cache_stages:
            return tuple(sorted({min(OPENING, si - 1), si - 1} - {0}))
    return ()


def is_probed(
    config: CacheConfig,
    schedule: StageSchedule,
    site: str,
    si: int,
    layer: int | None,
    similarity_row: Sequence[float],
) -> bool:
    """Whether block ``layer`` measures ``site`` at stage ``si``, see :func:`probed_stages`.

    Not where the table (its row ``similarity_row``) has nothing to compare it with.
    """
    return (
        layer == PROBE
        and config.is_enabled(site)
        and si in probed_stages(config, schedule)
        and similarity_row[schedule.column(si)] != 0
    )


def adapted_threshold(
    config: CacheConfig, calibrated: Sequence[float], measured: Sequence[float]
) -> float:
    """Threshold of one generation: ``clamp(1 - (1 - threshold) / r, 0, 1)``.

    ``r`` says how much more than the calibration images this one changes between stages: the
    product over the measurements of ``(1 - measured) / (1 - calibrated)``. If everything is r
    times as dissimilar as the table says, a similarity s is really ``1 - (1 - s) * r``, and that
    exceeds the configured threshold exactly where s exceeds the adapted one: a stricter threshold
    for an image that changes more, a looser one for a calmer image.

    Args:
        calibrated: the table's similarities of the probe, one per measurement.
        measured: the same similarities in the running generation.
    """
    ratio = math.prod(
        max(1 - m, LEAST_DISSIMILARITY) / max(1 - c, LEAST_DISSIMILARITY)
        for c, m in zip(calibrated, measured, strict=True)
    )
    return min(1.0, max(0.0, 1 - (1 - config.threshold) / ratio))


def decide_module(
    config: CacheConfig,
    schedule: StageSchedule,
    site: str,
    si: int,
    similarity_row: Sequence[float],
    has_stored: bool,
    threshold: float | None = None,
    *,
    layer: int | None = None,
) -> Action:
    """Decide for one module at one stage.

    *Reuse* iff the site is enabled, the stage is a skip stage, an output is stored and the
    similarity of the transition into this stage exceeds the threshold. *Store* iff the site is
    enabled, the stage is a cache stage, the next one is a skip stage and the similarity of the
    transition into that next stage exceeds the threshold. Both look up the column of the later
    stage. Stage 0 never reuses; its output's last position is the 1x1 map. The last stage never
    stores, and a negative ``si`` (training) does neither.

    Args:
        config: what caching may do.
        schedule: the model's stages.
        site: ``"attn"`` or ``"mlp"``.
        si: stage index.
        similarity_row: the block's row of the site's similarity table.
        has_stored: whether the previous stage's output of this module is at hand.
        threshold: replaces ``config.threshold`` for the reuse at this stage, see
            :func:`adapted_threshold`.
        layer: the block's index; None for one that is no probe, see :func:`is_probed`, and that the
            configuration does not name.

    With an adaptive threshold what it will be is not always known yet, and it may fall to 0, so
    every output whose transition has a positive similarity is stored. So is the probe's at the
    stages before those at which it measures.

    A module of an enabled site that is not reused at a pruned stage leaves out that stage's share
    of tokens, except where it is measured: then its whole output is compared.

    Raises:
        ValueError: unknown site, or the schedule has no stage ``si``.
    """
    if not config.is_enabled(site) or si < 0:
        return COMPUTE
    column = schedule.column(si)
    reuse = (
        column is not None
        and has_stored
        and is_eligible(config, schedule, site, si, layer)
        and similarity_row[column] > (config.threshold if threshold is None else threshold)
    )
    following = si + 1
    store = following < schedule.num_stages and (
        is_probed(config, schedule, site, following, layer, similarity_row)
        or (
            schedule.lengths[si] in config.cache_stages
            and is_eligible(config, schedule, site, following, layer)
            and similarity_row[schedule.column(following)]
            > (0.0 if config.adaptive_threshold else config.threshold)
        )
    )
    if config.decides_whole_modules:
        return Action(reuse, store)
    plan = prune_plan(config, schedule)
    compared = is_probed(config, schedule, site, si, layer, similarity_row)
    ratio = 0.0 if reuse or compared else plan.ratios[si]
    return Action(
        reuse,
        store,
        ratio,
        store_source=plan.source == si,
        store_keys=False,
    )


@dataclass(frozen=True)
class DecisionPlan:
    """Every decision of one generation.

    Under an adaptive threshold this is the plan for an image that behaves like the calibration
    images; the running generation may deviate from it.

    Attributes:
        config, schedule: what the plan was made for.
        actions: per site, per stage index, per layer.
        reasons: why nothing is reused, one sentence each; empty if something is.
    """

    config: CacheConfig
    schedule: StageSchedule
    actions: dict[str, tuple[tuple[Action, ...], ...]]
    reasons: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        return len(self.actions["attn"][0])

    def action(self, si: int, layer: int, site: str) -> Action:
        """The decision for one module; training (``si`` -1) computes."""
        return self.actions[site][si][layer] if si >= 0 else COMPUTE

    def reused(self, site: str, si: int | None = None) -> int:
        """Number of reused modules of ``site``, at stage ``si`` or in the whole generation."""
        return sum(action.reuse for action in self._of(site, si))

    def stored(self, site: str, si: int | None = None) -> int:
        """Number of stored outputs of ``site``, at stage ``si`` or in the whole generation."""
        return sum(action.store for action in self._of(site, si))

    def pruned(self, site: str, si: int | None = None) -> int:
        """Number of modules of ``site`` that leave out tokens, at stage ``si`` or altogether."""
        return sum(action.ratio > 0 for action in self._of(site, si))

    def _of(self, site: str, si: int | None) -> tuple[Action, ...]:
        stages = self.actions[site] if si is None else (self.actions[site][si],)
        return tuple(action for stage in stages for action in stage)

    @property
    def reuses_anything(self) -> bool:
        return any(self.reused(site) for site in SITES)

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """JSON-able counts: token count of the stage -> site -> computed, reused, stored."""
        return {
            str(length): {
                site: {
                    "computed": self.depth - self.reused(site, si),
                    "reused": self.reused(site, si),
                    "stored": self.stored(site, si),
                }
                for site in SITES
            }
            for si, length in enumerate(self.schedule.lengths)
        }


def decide_all(
    config: CacheConfig, schedule: StageSchedule, tables: SimilarityTables
) -> DecisionPlan:
    """Decide a whole generation in advance.

    Raises:
        ValueError: the tables do not fit the schedule.
    """
    tables.validate(tables.depth, schedule)
    actions = {site: _decide_site(config, schedule, site, tables) for site in SITES}
    plan = DecisionPlan(config, schedule, actions)
    if plan.reuses_anything:
        return plan
    return DecisionPlan(config, schedule, actions, explain_no_reuse(config, schedule, tables))


def _decide_site(
    config: CacheConfig, schedule: StageSchedule, site: str, tables: SimilarityTables
) -> tuple[tuple[Action, ...], ...]:
    stored = [False] * tables.depth
    stages = []
    for si in range(schedule.num_stages):
        stage = tuple(
            decide_module(config, schedule, site, si, row, stored[layer], layer=layer)
            for layer, row in enumerate(tables.site(site))
        )
        stored = [action.store for action in stage]
        stages.append(stage)
    return tuple(stages)


def explain_no_reuse(
    config: CacheConfig, schedule: StageSchedule, tables: SimilarityTables
) -> tuple[str, ...]:
    """Say why a configuration reuses nothing, one sentence per cause, the first cause first."""
    if not config.enabled_sites:
        return ("caching is disabled for attention and MLP",)
    if not config.skip_stages:
        return ("no skip stages are configured",)
    resolved = config.resolve(schedule)
    if not resolved.skip_stages:
        return (
            f"none of the skip stages {format_stages(config.skip_stages)} is a stage of this model "
            f"({format_stages(schedule.lengths)})",
        )
    open_stages = [n for n in resolved.skip_stages if n not in resolved.unfed_stages]
    if not open_stages:
        return (f"the stage before {format_stages(resolved.skip_stages)} is not in cache_stages",)
    if tables.is_empty:
        return ("the similarity table is empty: calibrate first or load a table",)
    return tuple(
        _explain_site(config, schedule, site, tables, open_stages) for site in config.enabled_sites
    )


def _explain_site(
    config: CacheConfig,
    schedule: StageSchedule,
    site: str,
    tables: SimilarityTables,
    open_stages: Sequence[int],
) -> str:
    candidates = [
        (row[schedule.column(schedule.index_of(length))], length)
        for layer, row in enumerate(tables.site(site))
        if layer not in config.computed_layers(site)
        for length in open_stages
    ]
    if not candidates:
        return f"{site}: every block is always computed"
    best, length = max(candidates)
    return (
        f"{site}: every similarity is at or below the threshold; "
        f"best was {best:.2f} at stage {length}, threshold {config.threshold:g}"
    )
