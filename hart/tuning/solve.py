"""The selection of least error within a budget, from the errors of the options by themselves.

Errors of different groups are taken to add up. Then it is a multiple-choice knapsack: one pattern
of reuse per module, whose costs add up exactly. Dynamic programming over :data:`BUCKETS` of cost
solves it, once for every combination of pruning and guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hart.tuning.costs import Costs, total
from hart.tuning.selection import Selection, surroundings

if TYPE_CHECKING:
    from hart.tuning.measurements import Measurements

BUCKETS = 1000
"""Resolution of costs; rounded up, so that a budget is kept."""


Allowed = Callable[[Selection], bool]
"""Which combinations of pruning and guidance may be used."""


def everything(selection: Selection) -> bool:
    """Any combination may be used."""
    return True


class ErrorModel:
    """The error of a selection, as the sum of its parts.

    A reused module leaves out no tokens: it has its share of the error of pruning no more.

    Args:
        measurements: of the parts.
    """

    def __init__(self, measurements: Measurements) -> None:
        self.stages = measurements.schedule.num_stages
        self._known = {
            selection: measurements.errors[name].mean
            for name, selection in measurements.measured.items()
        }

    def counts(self, module: int, modules: int) -> list[int]:
        """The measured patterns of a module, without reuse first."""
        most = range(1, self.stages)
        nothing = Selection((0,) * modules)
        return [0, *(n for n in most if nothing.with_reused(module, n) in self._known)]

    def module(self, selection: Selection, module: int) -> float:
        """What reuse of one module adds, and pruning of it."""
        nothing = self._nothing(selection)
        error = self._of(nothing.with_reused(module, selection.reused[module]))
        reused = selection.reuses_from(module, self.stages)
        pruned = [si for si, share in selection.pruned(self.stages).items() if share]
        computed = [si for si in pruned if si not in reused]
        if computed:
            alone = replace(selection.surroundings, unguided=0)
            error += self._of(alone) * len(computed) / len(pruned) / len(selection.reused)
        return error

    def rest(self, selection: Selection) -> float:
        """What the end of guidance adds."""
        return self._of(replace(self._nothing(selection), unguided=selection.unguided))

    def total(self, selection: Selection) -> float:
        modules = range(len(selection.reused))
        return self.rest(selection) + sum(self.module(selection, m) for m in modules)

    def _of(self, selection: Selection) -> float:
        return 0.0 if selection == self._nothing(selection) else self._known[selection]

    @staticmethod
    def _nothing(selection: Selection) -> Selection:
        return Selection((0,) * len(selection.reused))


class Solver:
    """Solves for any budget; what does not depend on the budget is done once.

    Args:
        measurements: of the options.
        costs: multiply-adds or seconds.
        allowed: which combinations of pruning and guidance may be used.
    """

    def __init__(
        self,
        measurements: Measurements,
        costs: Costs,
        allowed: Allowed = everything,
    ) -> None:
        self.errors, self.costs = ErrorModel(measurements), costs
        self.nothing = Selection((0,) * (2 * measurements.shape.depth))
        self.whole = total(costs, self.nothing)
        self._tables = [
            _Table(each, self.errors, costs, self.whole)
            for each in self._surroundings(measurements)
            if allowed(each)
        ]

    def _surroundings(self, measurements: Measurements) -> Iterator[Selection]:
        yield self.nothing
        for each in surroundings(measurements.measured):
            if each != self.nothing:
                yield each

    @property
    def least_cost(self) -> float:
        """The smallest budget that can be kept."""
        return min(table.least for table in self._tables)

    def solve(self, budget: float) -> Selection:
        """The selection of least error whose cost is at most ``budget``.

        Raises:
            ValueError: nothing costs so little.
        """
        found = self.alternatives(budget)
        if not found:
            raise ValueError(f"nothing costs at most {budget:g}; the least is {self.least_cost:g}")
        return found[0]

    def alternatives(self, budget: float) -> list[Selection]:
        """The best selection with every combination of pruning and guidance, best first."""
        found = [each for table in self._tables if (each := table.best(budget)) is not None]
        return [selection for _, selection in sorted(found, key=lambda pair: pair[0])]


class _Table:
    """The least error of every bucket of cost, in one combination of pruning and guidance."""

    def __init__(self, around: Selection, errors: ErrorModel, costs: Costs, whole: float) -> None:
        self.around, self.unit = around, whole / BUCKETS
        self.start, self.rest = costs.rest(around), errors.rest(around)
        modules = range(len(around.reused))
        self.patterns = [errors.counts(m, len(around.reused)) for m in modules]
        tried = [[around.with_reused(m, n) for n in self.patterns[m]] for m in modules]
        self.costs = [[costs.module(s, m) for s in each] for m, each in enumerate(tried)]
        self.errors = [[errors.module(s, m) for s in each] for m, each in enumerate(tried)]
        self.least = self.start + sum(map(min, self.costs))
        self._choices: list[np.ndarray] = []
        self._solve()

    def _solve(self) -> None:
        """After module m, the least error within every number of buckets above the least cost."""
        least = np.zeros(BUCKETS + 1)
        for costs, errors in zip(self.costs, self.errors, strict=True):
            rows = []
            for option, error in enumerate(errors):
                over = self._buckets(costs, option)
                row = np.full(BUCKETS + 1, np.inf)
                row[over:] = least[: BUCKETS + 1 - over] + error
                rows.append(row)
            choice = np.argmin(rows, axis=0)
            self._choices.append(choice)
            least = np.choose(choice, rows)

    def best(self, budget: float) -> tuple[float, Selection] | None:
        """Error and selection; None if the budget is too small."""
        left = int(np.floor((budget - self.least) / self.unit + 1e-6))
        if left < 0:
            return None
        left, chosen = min(left, BUCKETS), [0] * len(self.patterns)
        for module in reversed(range(len(self.patterns))):
            chosen[module] = int(self._choices[module][left])
            left -= self._buckets(self.costs[module], chosen[module])
        self._fill(chosen, budget)
        selection = self.around
        for module, option in enumerate(chosen):
            selection = selection.with_reused(module, self.patterns[module][option])
        return self.rest + _sum(self.errors, chosen), selection

    def _buckets(self, costs: list[float], option: int) -> int:
        """What an option of a module costs more than its cheapest one, rounded up."""
        over = (costs[option] - min(costs)) / self.unit
        return min(BUCKETS + 1, int(np.ceil(over - 1e-9)))

    def _fill(self, chosen: list[int], budget: float) -> None:
        """Use what rounding up has left of the budget, best changes first."""
        while True:
            room = budget * (1 + 1e-12) - self.start - _sum(self.costs, chosen)
            better = [
                (self.errors[m][option] - self.errors[m][now], m, option)
                for m, now in enumerate(chosen)
                for option in range(len(self.patterns[m]))
                if self.costs[m][option] - self.costs[m][now] <= room
            ]
            gain, module, option = min(better)
            if gain >= 0:
                return
            chosen[module] = option


def _sum(values: list[list[float]], chosen: list[int]) -> float:
    return sum(own[option] for own, option in zip(values, chosen, strict=True))
