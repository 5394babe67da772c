"""A configuration that says for every module and stage what is done: no table takes part."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

from .config import SITES, CacheConfig
from .corrections import Correction
from .plan import COMPUTE, Action, Plan, left_out, module_of, place_of, pruning_source
from .stages import StageSchedule, format_stages

TOKEN_CHOICES = ("module", "stage")
"""Who chooses the tokens that are left out: every module by its own input, or the stage by what its
predecessor changed in the feature map."""

REUSED, COMPUTED = "r", "."
"""Letters of modules in a file."""

Reused = frozenset[tuple[int, int]]
"""Stage index and module of everything that is reused."""


@dataclass(frozen=True)
class TunedConfig(CacheConfig):
    """What one model does, module by module; made by :func:`tuned_config`.

    The fields of :class:`CacheConfig` say the same as far as they can.

    Attributes:
        schedule, depth: of the model.
        reused: what is reused.
        token_choice: one of :data:`TOKEN_CHOICES`.
        corrections: of what is kept for reuse.
    """

    _: KW_ONLY
    schedule: StageSchedule
    depth: int
    reused: Reused = frozenset()
    token_choice: str = "module"
    corrections: tuple[Correction, ...] = ()

    @property
    def caches_anything(self) -> bool:
        """False: nothing depends on a table."""
        return False

    @property
    def changes_anything(self) -> bool:
        return bool(self.reused) or self.prunes_anything or self.guidance_stop_stage is not None

    @cached_property
    def plan(self) -> Plan:
        """What every module does at every stage."""
        schedule, source = self.schedule, pruning_source(self, self.schedule)
        stages = []
        for si in range(schedule.num_stages):
            ratio = left_out(self, schedule, si)
            stages.append(
                tuple(self._action(si, module, ratio, source) for module in range(2 * self.depth))
            )
        reasons = () if self.reused else ("the plan reuses nothing",)
        return Plan(self, schedule, tuple(stages), reasons, self.token_choice, self.corrections)

    def _action(self, si: int, module: int, ratio: float, source: int | None) -> Action:
        reuse, store = (si, module) in self.reused, (si + 1, module) in self.reused
        action = Action(reuse, store, 0.0 if reuse else ratio, si == source)
        return COMPUTE if action == COMPUTE else action

    def require(self, schedule: StageSchedule, depth: int) -> None:
        """Refuse another model.

        Raises:
            ValueError: it has other stages or another number of blocks.
        """
        if schedule != self.schedule:
            raise ValueError(
                f"the plan is for the stages {format_stages(self.schedule.lengths)}; "
                f"this model's are {format_stages(schedule.lengths)}"
            )
        if depth != self.depth:
            raise ValueError(f"the plan is for {self.depth} blocks; this model has {depth}")

    def corrected(self, corrections: Iterable[Correction]) -> TunedConfig:
        """With other corrections of what is kept."""
        return replace(self, corrections=tuple(corrections))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``plan_format`` reads it. One letter per block, of the stages that reuse."""
        lengths = self.schedule.lengths
        stages = sorted({si for si, _ in self.reused})
        plan = {
            "patch_nums": list(self.schedule.patch_nums),
            "depth": self.depth,
            "reuse": {
                str(lengths[si]): {site: self.letters(si, site) for site in SITES} for si in stages
            },
            "prune_stages": {str(length): share for length, share in self.prune_stages},
            "token_choice": self.token_choice,
            "guidance_stop_stage": self.guidance_stop_stage,
            "interpolation_mode": self.interpolation_mode,
            "corrections": [_correction_to_dict(each, lengths) for each in self.corrections],
        }
        return {"plan": plan}

    def letters(self, si: int, site: str) -> str:
        """What the blocks do with a site at a stage, :data:`REUSED` or :data:`COMPUTED` each."""
        modules = [module_of(layer, site) for layer in range(self.depth)]
        return "".join(REUSED if (si, m) in self.reused else COMPUTED for m in modules)

    def __str__(self) -> str:
        parts = []
        if self.reused:
            stages = sorted({self.schedule.lengths[si] for si, _ in self.reused})
            parts.append(f"{len(self.reused)} modules reused at {format_stages(stages)}")
        if self.corrections:
            parts.append("corrected")
        if self.prunes_anything:
            shares = ", ".join(f"{n}:{ratio:g}" for n, ratio in self.prune_stages)
            parts.append(f"prune {shares} by {self.token_choice}")
        if self.guidance_stop_stage is not None:
            parts.append(f"no guidance from {self.guidance_stop_stage}")
        return f"Plan({'; '.join(parts) or 'everything computed'})"


def _correction_to_dict(correction: Correction, lengths: tuple[int, ...]) -> dict[str, Any]:
    layer, site = place_of(correction.module)
    values = base64.b64encode(correction.values).decode()
    return {"stage": lengths[correction.si], "site": site, "layer": layer, "values": values}


def tuned_config(
    schedule: StageSchedule,
    depth: int,
    reused: Iterable[tuple[int, int]] = (),
    pruned: Mapping[int, float] | None = None,
    guidance_stop: int | None = None,
    token_choice: str = "module",
    corrections: Iterable[Correction] = (),
    interpolation_mode: str = "bilinear",
) -> TunedConfig:
    """What a model does, from what is special.

    Args:
        schedule, depth: of the model.
        reused: stage index from 1 and module, see :mod:`.plan`.
        pruned: stage index to the share of its tokens that is left out.
        guidance_stop: index of the first stage without guidance.
        token_choice: one of :data:`TOKEN_CHOICES`.
        corrections: of what is kept.
        interpolation_mode: how what is kept is resized.

    Raises:
        ValueError: a stage or module that the model does not have, or another value that is not
            allowed.
    """
    what, lengths = frozenset(reused), schedule.lengths
    for si, module in what:
        if not (0 < si < len(lengths) and 0 <= module < 2 * depth):
            raise ValueError(
                f"reused names module {module} at stage {si}; there are modules 0 to "
                f"{2 * depth - 1} and stages 1 to {len(lengths) - 1}"
            )
    if token_choice not in TOKEN_CHOICES:
        raise ValueError(
            f"token_choice must be one of {', '.join(TOKEN_CHOICES)}; got {token_choice!r}"
        )
    stages = sorted({si for si, _ in what})
    fixed = tuple(corrections)
    _check_corrections(fixed, what)
    return TunedConfig(
        skip_stages=[lengths[si] for si in stages],
        cache_stages=[lengths[si - 1] for si in stages],
        interpolation_mode=interpolation_mode,
        prune_stages={lengths[si]: share for si, share in (pruned or {}).items()},
        guidance_stop_stage=None if guidance_stop is None else lengths[guidance_stop],
        schedule=schedule,
        depth=depth,
        reused=what,
        token_choice=token_choice,
        corrections=fixed,
    )


def _check_corrections(corrections: tuple[Correction, ...], reused: Reused) -> None:
    """Refuse corrections of what is not reused, by ValueError."""
    for each in corrections:
        if (each.si + 1, each.module) not in reused:
            layer, site = place_of(each.module)
            raise ValueError(
                f"corrections name {site} {layer} at stage {each.si}, whose output is not reused"
            )


def last_stages(schedule: StageSchedule, module: int, count: int) -> Reused:
    """Reuse of one module at the last ``count`` stages."""
    last = schedule.num_stages
    return frozenset((si, module) for si in range(last - count, last))


def mapped(config: TunedConfig, schedule: StageSchedule, depth: int) -> TunedConfig:
    """The same for another model: stages counted from the last one, blocks by relative depth.

    Corrections are left behind.
    """
    shift = schedule.num_stages - config.schedule.num_stages
    reused = set()
    for layer in range(depth):
        own = min(config.depth - 1, round((layer + 0.5) * config.depth / depth - 0.5))
        for site in SITES:
            reused |= {
                (si + shift, module_of(layer, site))
                for si, module in config.reused
                if module == module_of(own, site) and si + shift > 0
            }
    index = config.schedule.lengths.index
    pruned = {index(n) + shift: share for n, share in config.prune_stages if index(n) + shift > 1}
    stop = config.guidance_stop_stage
    stop_index = None if stop is None else max(1, index(stop) + shift)
    mode = config.interpolation_mode
    return tuned_config(schedule, depth, reused, pruned, stop_index, config.token_choice, (), mode)
