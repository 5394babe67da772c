"""From a budget to a plan, by what was measured alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hart.modules.networks.caching.plan_files import PlanOrigin
from hart.tuning.costs import Costs, total
from hart.tuning.memory import predicted_bytes
from hart.tuning.plan import TunedPlan
from hart.tuning.selection import Selection
from hart.tuning.solve import Allowed, ErrorModel, Solver, everything
from hart.version import __version__

if TYPE_CHECKING:
    from hart.tuning.measurements import Measurements

GRID = np.linspace(0, 1, 101)[:-1]
"""Saved shares of multiply-adds that are tried for a target that is no cost."""


class Target(NamedTuple):
    """What is asked for: one of :data:`TARGETS` and its value."""

    name: str
    value: float

    @property
    def is_cost(self) -> bool:
        """Whether a solver can solve it directly."""
        return self.name in ("target_speedup", "target_saved", "max_latency")


TARGETS = {
    "target_speedup": "how many times as fast a whole picture is as without caching",
    "target_saved": "share of the transformer's multiply-adds that is saved",
    "min_ssim": "structural similarity to the pictures without caching, at least",
    "min_psnr": "peak signal-to-noise ratio to them in dB, at least",
    "max_latency": "seconds per picture, at most",
    "max_memory": "bytes of memory at the peak, at most",
}


def read_target(given: dict[str, Any]) -> Target:
    """The one target that is given.

    Raises:
        ValueError: none or several are, an unknown one, or a value that is not allowed.
    """
    named = {name: value for name, value in given.items() if value is not None}
    unknown = [name for name in named if name not in TARGETS]
    if unknown or len(named) != 1:
        raise ValueError(
            f"exactly one target is needed of {', '.join(TARGETS)}; "
            f"got {', '.join(named) or 'none'}"
        )
    ((name, value),) = named.items()
    least = {"target_speedup": 1.0}.get(name, 0.0)
    most = {"target_saved": 1.0, "min_ssim": 1.0}.get(name, np.inf)
    if not least <= value <= most:
        raise ValueError(f"{name} must be within [{least:g}, {most:g}], got {value:g}")
    return Target(name, float(value))


def solve(measurements: Measurements, **given: float) -> tuple[TunedPlan, Selection]:
    """The plan of least error within a budget, and the selection that it is.

    Args:
        given: one of :data:`TARGETS`.

    Raises:
        ValueError: the target is not allowed, cannot be reached (the message names the nearest
            possible value), or needs something that was not measured.
    """
    target = read_target(given)
    selection = Chooser(measurements, target).best()
    return planned(measurements, selection, target), selection


def planned(
    measurements: Measurements, selection: Selection, target: Target, corrections: Iterable = ()
) -> TunedPlan:
    """A selection as a plan with its predicted figures."""
    origin = PlanOrigin(
        measurements.fingerprint,
        prompts=measurements.images,
        library_version=__version__,
        settings={**measurements.settings, "target": {target.name: target.value}},
    )
    config = selection.config(measurements.schedule, corrections)
    return TunedPlan(config, origin, Predictor(measurements).figures(selection))


class Predictor:
    """What pictures of a selection will be like.

    Whole plans that were drawn say how much more than the sum of its parts a plan changes, and
    what a change looks like; in between it is interpolated.
    """

    def __init__(self, measurements: Measurements) -> None:
        self.known, self.errors = measurements, ErrorModel(measurements)
        changed = [p for p in measurements.pictures if p.predicted_error > 0 and p.map_error > 0]
        self.pictures = sorted(changed, key=lambda each: each.predicted_error)
        self._nothing = Selection((0,) * (2 * measurements.shape.depth))

    def figures(self, selection: Selection) -> dict[str, Any]:
        """Figures by name, as ``verify`` measures them; without those that nobody knows."""
        predicted = self.errors.total(selection)
        figures: dict[str, Any] = {"saved_share": self.saved(selection), "map_error": predicted}
        if self.pictures:
            figures |= self._pictured(predicted)
        if self.known.seconds is not None:
            seconds = total(self.known.seconds, selection)
            whole = total(self.known.seconds, self._nothing)
            figures |= {"speedup": whole / seconds, "seconds": seconds}
        if self.known.memory_bytes is not None:
            figures["memory_bytes"] = self.memory(selection)
        return figures

    def saved(self, selection: Selection) -> float:
        costs = self.known.multiply_adds
        return 1 - total(costs, selection) / total(costs, self._nothing)

    def memory(self, selection: Selection) -> float:
        assert self.known.memory_bytes is not None
        return predicted_bytes(self.known, selection)

    def _pictured(self, predicted: float) -> dict[str, float | None]:
        if predicted == 0:
            return {"map_error": 0.0, "ssim": 1.0, "psnr_db": None}
        sums = np.array([each.predicted_error for each in self.pictures])
        ratios = [each.map_error / each.predicted_error for each in self.pictures]
        return self.pictured(predicted * float(np.interp(predicted, sums, ratios)))

    def pictured(self, map_error: float) -> dict[str, float | None]:
        """What pictures are like whose final feature maps change so much; nothing if unknown."""
        if not self.pictures:
            return {"map_error": map_error}
        real = np.maximum.accumulate([each.map_error for each in self.pictures])
        ssims = np.minimum.accumulate([each.ssim for each in self.pictures])
        roots = np.sqrt([0.0, *real])
        offsets = [each.psnr_db + 10 * np.log10(each.map_error) for each in self.pictures]
        return {
            "map_error": map_error,
            "ssim": float(np.interp(np.sqrt(map_error), roots, [1.0, *ssims])),
            "psnr_db": float(np.interp(map_error, real, offsets) - 10 * np.log10(map_error)),
        }


class Chooser:
    """Solves one target.

    Args:
        measurements: of the options.
        target: what is asked for.
        allowed: which combinations of pruning and guidance may be used.
    """

    def __init__(
        self,
        measurements: Measurements,
        target: Target,
        allowed: Allowed = everything,
    ) -> None:
        if not measurements.measured:
            raise ValueError("no option has been measured yet")
        self.target, self.allowed = target, allowed
        self.predictor = Predictor(measurements)
        by_time = target.name in ("target_speedup", "max_latency")
        if by_time and measurements.seconds is None:
            raise ValueError(f"{target.name} needs seconds, and nothing was timed")
        if target.name in ("min_ssim", "min_psnr") and not measurements.pictures:
            raise ValueError(f"{target.name} needs pictures of whole plans, and none were measured")
        if target.name == "max_memory" and measurements.memory_bytes is None:
            raise ValueError("max_memory needs the memory of a draw, which was not measured")
        costs: Costs = measurements.multiply_adds
        if by_time and measurements.seconds is not None:
            costs = measurements.seconds
        self.solver = Solver(measurements, costs, allowed)

    @property
    def budget(self) -> float:
        """The most that a solution may cost; of a target that is a cost."""
        name, value = self.target
        if name == "max_latency":
            return value
        whole = self.solver.whole
        return whole / value if name == "target_speedup" else whole * (1 - value)

    def best(self) -> Selection:
        """The selection of least error that keeps the target.

        Raises:
            ValueError: none does; the message names the nearest possible value.
        """
        if self.target.is_cost:
            self._require_reachable()
            return self.solver.solve(self.budget)
        if self.target.name == "max_memory":
            return self._within_memory()
        return self._of_quality()

    def _require_reachable(self) -> None:
        least, whole = self.solver.least_cost, self.solver.whole
        if self.budget >= least:
            return
        nearest = {
            "target_speedup": whole / least,
            "target_saved": 1 - least / whole,
            "max_latency": least,
        }[self.target.name]
        raise _unreachable(self.target, nearest)

    def _tried(self) -> list[Selection]:
        whole, least = self.solver.whole, self.solver.least_cost
        budgets = [whole * (1 - share) for share in GRID]
        return [self.solver.solve(budget) for budget in budgets if budget >= least]

    def _of_quality(self) -> Selection:
        """The one that saves most; that without caching changes nothing."""
        name = {"min_ssim": "ssim", "min_psnr": "psnr_db"}[self.target.name]
        for selection in reversed(self._tried()):
            value = self.predictor.figures(selection)[name]
            if value is None or value >= self.target.value:
                return selection
        return self.solver.nothing

    def _within_memory(self) -> Selection:
        """The one of least error."""
        tried = self._tried()
        for selection in tried:
            if self.predictor.memory(selection) <= self.target.value:
                return selection
        raise _unreachable(self.target, min(map(self.predictor.memory, tried)))


def _unreachable(target: Target, nearest: float) -> ValueError:
    """Names a value that can be reached: rounded to four digits, to the side that can."""
    least = target.name in ("max_latency", "max_memory")
    unit = 10.0 ** (math.floor(math.log10(nearest)) - 3) if nearest > 0 else 1.0
    rounded = (math.ceil if least else math.floor)(nearest / unit) * unit
    kind = "least" if least else "most"
    value = f"{rounded:.0f}" if target.name == "max_memory" else f"{rounded:.4g}"
    return ValueError(
        f"{target.name} {target.value:g} cannot be reached; the {kind} possible is {value}"
    )
