"""What every module does at every stage: data, made before a generation starts.

A *module* is one site of one block. It has a number, in the order in which modules run:
``2 * layer`` is a layer's attention, ``2 * layer + 1`` its MLP. What it does depends only on the
configuration, the schedule and the similarity table. The rules are small functions;
:func:`decide_all` walks them over a whole generation.

Token pruning is FastVAR's, arXiv 2503.23367.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from .config import SITES, CacheConfig
from .corrections import Correction
from .reasons import explain_no_reuse
from .similarity import SimilarityTables
from .stages import StageSchedule

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
        ratio: share of the tokens that is left out of the computation, see :func:`kept_tokens`. A
            reused module leaves out none: it computes none.
        store_source: keep the output for the left-out tokens of all pruned stages.
    """

    reuse: bool = False
    store: bool = False
    ratio: float = 0.0
    store_source: bool = False


COMPUTE = Action()


def module_of(layer: int, site: str) -> int:
    """The number of a block's attention or MLP."""
    return 2 * layer + SITES.index(site)


def place_of(module: int) -> tuple[int, str]:
    """Block and site of a module's number."""
    return module // 2, SITES[module % 2]


# --- the rules --------------------------------------------------------------------------------


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


def measured_stages(
    config: CacheConfig, schedule: StageSchedule, site: str, layer: int | None, row: Sequence[float]
) -> tuple[int, ...]:
    """Those of :func:`probed_stages` at which block ``layer`` measures ``site``.

    Not where the table, whose row of the block is ``row``, has nothing to compare it with.
    """
    if layer != PROBE or not config.is_enabled(site):
        return ()
    return tuple(si for si in probed_stages(config, schedule) if row[schedule.column(si)] != 0)


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


@lru_cache(maxsize=128)
def pruning_source(config: CacheConfig, schedule: StageSchedule) -> int | None:
    """Index of the stage whose outputs stand in for those of left-out tokens; None: no pruning."""
    source = config.resolve(schedule).prune_source
    return None if source is None else schedule.index_of(source)


def left_out(config: CacheConfig, schedule: StageSchedule, si: int) -> float:
    """Share of the tokens that the modules of stage ``si`` leave out."""
    if pruning_source(config, schedule) is None:
        return 0.0
    return dict(config.prune_stages).get(schedule.lengths[si], 0.0)


def kept_tokens(tokens: int, ratio: float) -> int:
    """How many of ``tokens`` are computed when the share ``ratio`` is left out; at least 1.

    ``tokens - int(tokens * ratio)``, with the float product cut off, as FastVAR does.
    """
    return max(1, tokens - int(tokens * ratio))


def guidance_stop(config: CacheConfig, schedule: StageSchedule) -> int | None:
    """Index of the stage from which on there is no guidance; None if there always is."""
    stop = config.guidance_stop_stage
    return schedule.index_of(stop) if stop in schedule.lengths else None


def kept_above(
    config: CacheConfig, schedule: StageSchedule, si: int, threshold: float
) -> float | None:
    """What the next transition must exceed for outputs of stage ``si`` to be kept; None: none are.

    What an adaptive threshold will be is not known yet at the last stage that it is measured at. It
    may fall to 0, so there every output whose transition has a positive similarity is kept.
    """
    if si >= schedule.last or schedule.lengths[si] not in config.cache_stages:
        return None
    return 0.0 if si == max(probed_stages(config, schedule), default=None) else threshold


def decide_module(
    config: CacheConfig,
    schedule: StageSchedule,
    site: str,
    si: int,
    row: Sequence[float],
    has_stored: bool,
    threshold: float | None = None,
    *,
    layer: int | None = None,
) -> Action:
    """Decide for one module at one stage.

    Nothing of a disabled site or in training (negative ``si``). Stage 0 never reuses, the last one
    never stores. A module that is not reused at a pruned stage leaves out that stage's share of
    tokens, except where it is measured: whole outputs are compared.

    Args:
        row: the block's row of the site's similarity table.
        has_stored: whether the previous stage's output of this module is at hand.
        threshold: replaces ``config.threshold``, see :func:`adapted_threshold`.
        layer: the block's index; None for one that is no probe and that the configuration does not
            name.

    Raises:
        ValueError: unknown site, or the schedule has no stage ``si``.
    """
    if not config.is_enabled(site) or si < 0:
        return COMPUTE
    if threshold is None:
        threshold = config.threshold

    def is_similar(stage: int, least: float) -> bool:
        """Whether the module may be reused at a stage, if its similarity exceeds ``least``."""
        eligible = is_eligible(config, schedule, site, stage, layer)
        return eligible and row[schedule.column(stage)] > least

    reuse = has_stored and is_similar(si, threshold)
    least = kept_above(config, schedule, si, threshold)
    measured = measured_stages(config, schedule, site, layer, row)
    whole = reuse or si in measured or si + 1 in measured
    return Action(
        reuse,
        least is not None and is_similar(si + 1, least),
        0.0 if whole else left_out(config, schedule, si),
        pruning_source(config, schedule) == si,
    )


# --- a whole generation -----------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Plan:
    """What every module does at every stage of one generation.

    Under an adaptive threshold this is the plan for an image that behaves like the calibration
    images; once the running generation has been measured, another one replaces it.

    Attributes:
        config, schedule: what the plan was made for.
        stages: per stage index the action of every module, in the order of their numbers.
        reasons: why nothing is reused, one sentence each; empty if something is.
        token_choice: whether left-out tokens are chosen by every ``"module"`` or once per
            ``"stage"``, see ``GenerationCache.choose``.
        corrections: of what is kept for reuse.
    """

    config: CacheConfig
    schedule: StageSchedule
    stages: tuple[tuple[Action, ...], ...]
    reasons: tuple[str, ...] = ()
    token_choice: str = "module"
    corrections: tuple[Correction, ...] = ()

    def __getitem__(self, si: int) -> tuple[Action, ...]:
        return self.stages[si]

    @property
    def depth(self) -> int:
        return len(self.stages[0]) // 2

    def action(self, si: int, layer: int, site: str) -> Action:
        """The decision for one module; training (``si`` -1) computes."""
        return self.stages[si][module_of(layer, site)] if si >= 0 else COMPUTE

    def reused(self, site: str, si: int | None = None) -> int:
        """Number of reused modules of ``site``, at stage ``si`` or in the whole generation."""
        return sum(action.reuse for action in self._of(site, si))

    def stored(self, site: str, si: int | None = None) -> int:
        """Number of stored outputs of ``site``, at stage ``si`` or in the whole generation."""
        return sum(action.store for action in self._of(site, si))

    def pruned(self, site: str, si: int | None = None) -> int:
        """Number of modules of ``site`` that leave out tokens, at stage ``si`` or altogether."""
        return sum(action.ratio > 0 for action in self._of(site, si))

    def _of(self, site: str, si: int | None) -> list[Action]:
        stages = self.stages if si is None else (self.stages[si],)
        return [action for stage in stages for action in stage[SITES.index(site) :: 2]]

    def __repr__(self) -> str:
        calls = 2 * self.depth * self.schedule.num_stages
        reused, pruned = (sum(map(number, SITES)) for number in (self.reused, self.pruned))
        return (
            f"{type(self).__name__}({self.schedule.num_stages} stages of {self.depth} layers: of "
            f"{calls} modules {reused} reused, {pruned} with tokens left out)"
        )

    def _repr_html_(self) -> str:
        """A map of it, for notebooks."""
        from .plan_map import plan_html  # which imports this

        return plan_html(self)

    @property
    def reuses_anything(self) -> bool:
        return any(self.reused(site) for site in SITES)

    @property
    def does_anything(self) -> bool:
        """Whether any module does more than compute."""
        return any(action != COMPUTE for stage in self.stages for action in stage)

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


def compute_everything(config: CacheConfig, schedule: StageSchedule, depth: int) -> Plan:
    """The plan of a generation without caching."""
    return Plan(config, schedule, ((COMPUTE,) * (2 * depth),) * schedule.num_stages)


def decide_all(
    config: CacheConfig,
    schedule: StageSchedule,
    tables: SimilarityTables,
    threshold: float | None = None,
) -> Plan:
    """Decide a whole generation in advance.

    Args:
        threshold: replaces ``config.threshold``.

    Raises:
        ValueError: the tables do not fit the schedule.
    """
    tables.validate(tables.depth, schedule)
    places = [place_of(module) for module in range(2 * tables.depth)]
    stored, stages = [False] * len(places), []
    for si in range(schedule.num_stages):
        actions = tuple(
            decide_module(
                *(config, schedule, site, si, tables.site(site)[layer], has_stored, threshold),
                layer=layer,
            )
            for (layer, site), has_stored in zip(places, stored, strict=True)
        )
        stages.append(actions)
        stored = [action.store for action in actions]
    plan = Plan(config, schedule, tuple(stages))
    if plan.reuses_anything:
        return plan
    return Plan(config, schedule, plan.stages, explain_no_reuse(config, schedule, tables))
