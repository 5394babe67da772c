"""How much is drawn to find a plan, so that it takes no longer than it may.

The seconds of one picture without caching are known; what everything else takes follows from the
transformer's multiply-adds, of which a reused draw has about :data:`LEFT`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from hart.modules.networks.caching.multiply_adds import TransformerShape, transformer_macs
from hart.modules.networks.caching.stages import StageSchedule
from hart.tuning.replay import first_change
from hart.tuning.selection import Selection, most_reused

LEFT = 0.8
"""Share of a picture's seconds that plans have, on the whole; large rather than small."""
RESERVE = 0.9
"""Share of the time that is planned: machines drift."""
TIMED_DRAWS = 17 * LEFT
"""Pictures of ``timed.time_parts`` per timed image, in those without caching."""
LADDER = (0.15, 0.3, 0.45, 0.6, 0.75)
"""Saved shares of multiply-adds at which pictures of whole plans are measured."""
ADJUSTMENTS = 3
"""Most times that a budget is changed."""


class Effort(NamedTuple):
    """What one run draws.

    Attributes:
        measured: images that every option is measured on.
        tries: draws to refine a plan with.
        tried: images of each of these draws.
        held_out: images that a plan is verified on.
        timed: images of the timed draws.
    """

    measured: int
    tries: int
    tried: int
    held_out: int
    timed: int


EFFORTS = (
    Effort(32, 60, 8, 32, 2),
    Effort(16, 40, 6, 24, 2),
    Effort(8, 30, 4, 16, 2),
    Effort(6, 24, 4, 16, 2),
    Effort(4, 20, 4, 12, 1),
    Effort(3, 16, 4, 10, 1),
    Effort(2, 12, 4, 8, 1),
    Effort(2, 12, 3, 8, 1),
    Effort(2, 8, 2, 6, 1),
    Effort(1, 6, 2, 4, 1),
    Effort(1, 2, 1, 2, 1),
)
"""From much to the least that makes a plan."""


@dataclass(frozen=True)
class Work:
    """What there is to do, and how fast it goes.

    Attributes:
        shape: of the model.
        options: those that are measured; none if they are known.
        map_s, rest_s: seconds of one image without caching: its feature map, and text and decoding.
        times: whether the parts are timed.
        plans: how many are found.
        adjusts: whether the budget is changed until draws keep it.
        processes: that share the options.
    """

    shape: TransformerShape
    options: tuple[Selection, ...]
    map_s: float
    rest_s: float
    times: bool = True
    plans: int = 1
    adjusts: bool = True
    processes: int = 1

    def seconds(self, effort: Effort) -> float:
        """About how long everything takes, rather too long."""
        return self._measuring(effort) + self._finding(effort)

    def _measuring(self, effort: Effort) -> float:
        picture_s = self.map_s + self.rest_s
        timing = (1 + TIMED_DRAWS * effort.timed) * picture_s if self.times else 0.0
        if not self.options:
            return timing
        draws = 1 + sum(self._shares()) / self.processes
        return timing + effort.measured * (draws * self.map_s + self.rest_s)

    def _shares(self) -> Iterable[float]:
        """Of a map's multiply-adds, those from each option's first change on."""
        stages, schedule = transformer_macs(self.shape), StageSchedule(self.shape.patch_nums)
        for option in self.options:
            yield sum(stages[first_change(option.config(schedule)) :]) / sum(stages)

    def _finding(self, effort: Effort) -> float:
        stages = transformer_macs(self.shape)
        last = most_reused(StageSchedule(self.shape.patch_nums))
        draw_s = LEFT * self.map_s * sum(stages[-last:]) / sum(stages)
        picture_s = self.map_s + self.rest_s
        pair_s = picture_s * (1 + LEFT)
        once = effort.tried * (picture_s + len(LADDER) * (draw_s + self.rest_s))
        draws = effort.tries + 2
        checks = 0.0
        if self.adjusts and effort.tries:
            draws += ADJUSTMENTS * max(1, effort.tries // 4)
            checks = ADJUSTMENTS * (effort.tried + 1) * pair_s
        corrections = 2 * effort.tried * self.map_s
        verified = (effort.held_out + 1) * pair_s if effort.held_out else 0.0
        every = effort.tried * draws * draw_s + checks + corrections + verified
        return (once if effort.tries else 0.0) + self.plans * every


def effort_within(
    work: Work, seconds: float, tries: int | None = None, held_out: int | None = None
) -> Effort:
    """The largest of :data:`EFFORTS` that takes no longer; if all do, the smallest.

    Args:
        tries, held_out: as many as these in any case.
    """
    known = [
        each._replace(
            tries=each.tries if tries is None else tries,
            held_out=each.held_out if held_out is None else held_out,
        )
        for each in EFFORTS
    ]
    fitting = (each for each in known if work.seconds(each) <= RESERVE * seconds)
    return next(fitting, known[-1])


def effort_line(effort: Effort, work: Work, minutes: float, prompts: int, held_out: int) -> str:
    """What is drawn, and how long that takes.

    Args:
        minutes: that it may take.
        prompts, held_out: how many there are to measure and to verify with.
    """
    drawn = effort._replace(
        measured=min(effort.measured, prompts),
        tried=min(effort.tried, prompts),
        held_out=min(effort.held_out, held_out),
    )
    needed = work.seconds(drawn) / 60
    parts = [f"a picture takes {work.map_s + work.rest_s:.2f} s"]
    if work.options:
        parts.append(f"{len(work.options)} options on {drawn.measured} images")
    parts.append(f"{drawn.tries} draws of {drawn.tried} to refine")
    parts.append(f"{drawn.held_out} to verify: about {max(1, round(needed))} minutes")
    line = ", ".join(parts)
    return line if needed <= minutes else f"{line}, more than the {minutes:g} there are"
