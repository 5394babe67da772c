"""What happens while a request is served."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hart.evaluation.reuse_plot import ReuseMap
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.plan import Plan
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline, ImageResult, StagePreview
from hart.pipeline.options import DEFAULT_BATCH_SIZE
from hart.tuning.plan import TunedPlan
from hart.web.requests import CalibrationRequest, DrawRequest, TuningRequest
from hart.web.worker import Emit


@dataclass(frozen=True)
class WarmingUp:
    """Configurations that are to be compared are drawn with for the first time, unmeasured."""


class Progress(NamedTuple):
    """A stage of ``stage`` tokens is finished, of what ``name`` draws: a configuration.

    ``done`` of ``total`` stages of the whole request are. The batch has the images from ``first``
    to ``last``, from 1, of ``images`` in all.
    """

    name: str
    done: int
    total: int
    first: int
    last: int
    images: int
    stage: int


class Step(NamedTuple):
    """So many of the parts of one step of finding a plan are done."""

    name: str
    done: int
    total: int
    left_s: float | None


class Preview(NamedTuple):
    """The pictures of a batch after a stage of the run ``name``."""

    name: str
    preview: StagePreview


class BatchDone(NamedTuple):
    """Finished pictures of the run ``name``."""

    name: str
    results: list[ImageResult]


class FinishedRun(NamedTuple):
    """All images of one configuration: what was reused, also by layer, and if nothing was, why.

    ``plan`` is what was decided, before an adaptive threshold had seen the images.
    """

    name: str
    config: CacheConfig
    results: list[ImageResult]
    statistics: dict[str, Any]
    reuse: ReuseMap
    plan: Plan
    reasons: tuple[str, ...]

    def mean(self, part: str) -> float:
        """Seconds per image of a part, as :attr:`ImageResult.seconds` names it."""
        return sum(result.seconds[part] or 0.0 for result in self.results) / len(self.results)


class Drawn(NamedTuple):
    """The end of a drawing: its runs, the asked-for one first, and warnings worth showing."""

    request: DrawRequest
    runs: list[FinishedRun]
    notes: list[str]


class Calibrated(NamedTuple):
    """The end of a calibration: the table that is in use now."""

    request: CalibrationRequest
    tables: SimilarityTables
    notes: list[str]


class Tuned(NamedTuple):
    """The end of finding a plan."""

    request: TuningRequest
    plan: TunedPlan
    notes: list[str]


def batch_size(request: DrawRequest | CalibrationRequest) -> int:
    return request.options.batch_size or DEFAULT_BATCH_SIZE


class Tracker:
    """Turns the pipeline's callbacks into events with the progress of the whole request.

    ``name`` is the run that the next stages belong to.
    """

    def __init__(
        self,
        pipeline: HARTPipeline,
        emit: Emit,
        request: DrawRequest | CalibrationRequest,
        names: Sequence[str],
    ) -> None:
        self._lengths = pipeline.transformer.schedule.lengths
        self._emit, self.name = emit, names[0]
        self._images = len(request.prompts) * request.options.num_images_per_prompt
        self._size = batch_size(request)
        self._total = len(names) * math.ceil(self._images / self._size) * len(self._lengths)
        self._stages = dict.fromkeys(names, 0)

    def on_stage(self, si: int, num_stages: int) -> None:
        first = self._stages[self.name] // num_stages * self._size
        self._stages[self.name] += 1
        done, last = sum(self._stages.values()), min(first + self._size, self._images)
        batch = (first + 1, last, self._images)
        self._emit(Progress(self.name, done, self._total, *batch, self._lengths[si]))

    def on_preview(self, preview: StagePreview) -> None:
        self._emit(Preview(self.name, preview))
