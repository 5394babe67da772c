"""Which consecutive reused modules can be replaced by one addition to the residual stream.

A run of reused modules adds its outputs, times their gammas, to the residual stream; nothing in
between looks at it. Interpolation is linear, so interpolating the sum once and adding it once gives
the same result as doing so module by module. What a run needs is the *change of the residual
stream* across the same modules at the stage before.

Modules of one stage are numbered in the order in which they run: ``2 * layer`` is the layer's
attention, ``2 * layer + 1`` its MLP.
"""

from __future__ import annotations

from dataclasses import dataclass

from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.decisions import DecisionPlan


@dataclass(frozen=True)
class Run:
    """Modules ``start`` to ``stop - 1``, all reused."""

    start: int
    stop: int

    def __contains__(self, module: int) -> bool:
        return self.start <= module < self.stop


@dataclass(frozen=True)
class StageProgram:
    """What one stage does.

    Attributes:
        steps: in order, a module's number where it computes, a :class:`Run` where it is reused.
        kept: runs of the next stage; the change of the residual stream across each is kept.
    """

    steps: tuple[int | Run, ...]
    kept: tuple[Run, ...]

    def kept_run(self, module: int) -> Run | None:
        """The kept run that a module contributes to, if any."""
        return next((run for run in self.kept if module in run), None)


def compute_everything(depth: int, num_stages: int) -> tuple[StageProgram, ...]:
    """The program of every stage of a generation that reuses nothing."""
    return (StageProgram(tuple(range(2 * depth)), ()),) * num_stages


def merge_runs(plan: DecisionPlan, cut_inside_layers: bool = False) -> tuple[StageProgram, ...]:
    """The program of every stage of a generation, from its decisions.

    Args:
        plan: decisions, which must be known beforehand (no adaptive threshold).
        cut_inside_layers: whether something runs between a layer's attention and its MLP, as
            cross-attention does, so that no run may span both.
    """
    modules = range(2 * plan.depth)
    fixed = {m for m in modules if m % 2} if cut_inside_layers else set()
    programs: list[StageProgram] = []
    later: tuple[Run, ...] = ()
    for si in reversed(range(plan.schedule.num_stages)):
        # What the next stage takes as one sum must not be part of a larger sum here.
        cuts = fixed | {bound for run in later for bound in (run.start, run.stop)}
        runs = _maximal_runs([_is_reused(plan, si, module) for module in modules], cuts)
        inside = {module: run for run in runs for module in range(run.start, run.stop)}
        steps = [inside.get(module, module) for module in modules]
        programs.append(StageProgram(tuple(dict.fromkeys(steps)), later))
        later = runs
    return tuple(reversed(programs))


def _is_reused(plan: DecisionPlan, si: int, module: int) -> bool:
    return plan.action(si, module // 2, SITES[module % 2]).reuse


def _maximal_runs(reused: list[bool], cuts: set[int]) -> tuple[Run, ...]:
    runs: list[Run] = []
    for module, is_reused in enumerate(reused):
        if not is_reused:
            continue
        if runs and runs[-1].stop == module and module not in cuts:
            runs[-1] = Run(runs[-1].start, module + 1)
        else:
            runs.append(Run(module, module + 1))
    return tuple(runs)
