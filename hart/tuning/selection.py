"""What a search chooses from: a pattern of reuse per module, pruning, and the end of guidance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hart.modules.networks.caching.corrections import Correction
from hart.modules.networks.caching.plan import place_of
from hart.modules.networks.caching.stages import StageSchedule
from hart.modules.networks.caching.tuned_config import TOKEN_CHOICES, TunedConfig, tuned_config

MOST_STAGES = 4
"""Most of the last stages at which a module is reused; the fifth last of 14 has 4 % of the work."""
UNGUIDED = (1, 2, 3)
"""Numbers of last stages without guidance."""
SHARES = ((0.25,), (0.5,), (0.75,), (0.25, 0.5), (0.5, 0.5), (0.5, 0.75), (0.75, 0.75))
"""Shares of tokens left out at the last stages, in their order; (0.5, 0.75) are FastVAR's."""


@dataclass(frozen=True)
class Selection:
    """What is chosen of every group.

    Attributes:
        reused: per module, at how many of the last stages it is reused.
        shares: of tokens left out at the last stages.
        token_choice: who chooses these tokens, see ``TOKEN_CHOICES``.
        unguided: how many of the last stages have no guidance.
    """

    reused: tuple[int, ...]
    shares: tuple[float, ...] = ()
    token_choice: str = TOKEN_CHOICES[0]
    unguided: int = 0

    def reuses_from(self, module: int, num_stages: int) -> range:
        """Indices of the stages at which a module is reused."""
        return range(num_stages - self.reused[module], num_stages)

    def pruned(self, num_stages: int) -> dict[int, float]:
        """Share of the tokens that is left out, by stage index."""
        return dict(zip(range(num_stages - len(self.shares), num_stages), self.shares, strict=True))

    def config(
        self, schedule: StageSchedule, corrections: Iterable[Correction] = ()
    ) -> TunedConfig:
        """What a model does."""
        stages = schedule.num_stages
        return tuned_config(
            schedule,
            len(self.reused) // 2,
            [(si, m) for m in range(len(self.reused)) for si in self.reuses_from(m, stages)],
            self.pruned(stages),
            stages - self.unguided if self.unguided else None,
            self.token_choice,
            corrections,
        )

    def with_reused(self, module: int, count: int) -> Selection:
        """With another pattern of one module."""
        reused = list(self.reused)
        reused[module] = count
        return replace(self, reused=tuple(reused))

    @property
    def surroundings(self) -> Selection:
        """All but the reuse."""
        return replace(self, reused=(0,) * len(self.reused))


def most_reused(schedule: StageSchedule) -> int:
    """At how many of the last stages a module may be reused: what is drawn is decided before."""
    return max(1, min(MOST_STAGES, schedule.num_stages // 3))


def options(schedule: StageSchedule, depth: int) -> dict[str, Selection]:
    """Everything that is measured by itself, by name; cheap ones first."""
    nothing = Selection((0,) * (2 * depth))
    stages, found = schedule.num_stages, dict[str, Selection]()
    for count in range(1, most_reused(schedule) + 1):
        for module in range(2 * depth):
            layer, site = place_of(module)
            found[f"{site} {layer} last {count}"] = nothing.with_reused(module, count)
        if count in UNGUIDED and count < stages:
            found[f"unguided last {count}"] = replace(nothing, unguided=count)
        for shares in SHARES:
            if len(shares) == count and count < stages - 1:
                for choice in TOKEN_CHOICES:
                    text = ":".join(f"{share:g}" for share in shares)
                    found[f"prune {text} by {choice}"] = replace(
                        nothing, shares=shares, token_choice=choice
                    )
    return found


def surroundings(measured: Mapping[str, Selection]) -> Iterator[Selection]:
    """Every combination of pruning and guidance of measured options."""
    alone: Sequence[Selection] = [each for each in measured.values() if not any(each.reused)]
    if not measured:
        return
    nothing = next(iter(measured.values())).surroundings
    nothing = replace(nothing, shares=(), token_choice=TOKEN_CHOICES[0], unguided=0)
    unguided = [0, *(each.unguided for each in alone if each.unguided)]
    pruned = [nothing, *(each for each in alone if each.shares)]
    for count in unguided:
        for each in pruned:
            yield replace(each, unguided=count)
