"""Trying a selection and its neighbours on real draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from hart.modules.networks.caching.corrections import Correction
from hart.modules.networks.caching.stages import StageSchedule
from hart.tuning.costs import total
from hart.tuning.replay import Replay
from hart.tuning.selection import Selection
from hart.tuning.solve import Solver

ALTERNATIVES = 0.4
"""Share of the draws that is for other combinations of pruning and guidance."""


class Trial:
    """What selections really change, remembered.

    Args:
        replays: of the images that everything is tried on.
        schedule: of the model.
    """

    def __init__(self, replays: Sequence[Replay], schedule: StageSchedule) -> None:
        self.replays, self.schedule = replays, schedule
        self._known: dict[tuple[Selection, tuple[Correction, ...]], float] = {}

    def error(self, selection: Selection, corrections: Sequence[Correction] = ()) -> float:
        """Mean squared change of the final feature maps."""
        key = selection, tuple(corrections)
        if key not in self._known:
            config = selection.config(self.schedule, corrections)
            errors = [error for replay in self.replays for error in replay.errors(config)]
            self._known[key] = fmean(errors)
        return self._known[key]

    def knows(self, selection: Selection) -> bool:
        return (selection, ()) in self._known

    @property
    def draws(self) -> int:
        """How many selections were drawn."""
        return len(self._known)


def refine(trial: Trial, solver: Solver, budget: float, tries: int) -> Iterator[Selection]:
    """Better and better selections within a budget, by at most ``tries`` draws.

    First the best ones with other pruning and guidance, then what differs in one or two modules,
    in the order of what the sum of the parts says. Yields the best one after every draw; the first
    one is the solver's.
    """
    alternatives = solver.alternatives(budget)
    best = alternatives[0]
    limit = trial.draws + max(1, tries)
    for selection in alternatives[: max(1, round(ALTERNATIVES * tries))]:
        best = min(best, selection, key=trial.error)
        yield best
    while trial.draws < limit:
        improved = False
        for neighbour in neighbours(solver, best, budget):
            if trial.draws >= limit:
                return
            if trial.knows(neighbour):
                continue
            improved = trial.error(neighbour) < trial.error(best)
            best = neighbour if improved else best
            yield best
            if improved:
                break
        if not improved:
            return


def neighbours(solver: Solver, selection: Selection, budget: float) -> list[Selection]:
    """Selections within a budget that differ in one or two modules, promising ones first."""
    errors, costs = solver.errors, solver.costs
    modules = range(len(selection.reused))
    room = budget - total(costs, selection)
    changes: list[tuple[float, float, int, int]] = []  # cost, error, module, pattern
    for module in modules:
        cost, error = costs.module(selection, module), errors.module(selection, module)
        for count in errors.counts(module, len(modules)):
            if count != selection.reused[module]:
                other = selection.with_reused(module, count)
                more = costs.module(other, module) - cost, errors.module(other, module) - error
                changes.append((*more, module, count))
    found = [(error, selection.with_reused(m, n)) for cost, error, m, n in changes if cost <= room]
    for cost, error, m, n in changes:
        for cost2, error2, m2, n2 in changes:
            if cost < 0 < cost2 and m != m2 and cost + cost2 <= room:
                found.append((error + error2, selection.with_reused(m, n).with_reused(m2, n2)))
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]
