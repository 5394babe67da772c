"""What happens while a request is served."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hart.evaluation.reuse_plot import ReuseMap
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline, ImageResult, StagePreview
from hart.pipeline.options import DEFAULT_BATCH_SIZE
from hart.web.requests import CalibrationRequest, DrawRequest
from hart.web.worker import Emit


@dataclass(frozen=True)
class WarmingUp:
    """Configurations that are to be compared are drawn with for the first time, unmeasured."""


@dataclass(frozen=True)
class Progress:
    """A stage is finished.

    Attributes:
        name: what is being drawn: a configuration's name.
        done, total: stages of the whole request.
        first, last, images: the batch's first and last image, from 1, and their number in all.
        stage: token count of the stage.
    """

    name: str
    done: int
    total: int
    first: int
    last: int
    images: int
    stage: int


@dataclass(frozen=True)
class Preview:
    """The pictures of a batch after a stage of the run ``name``."""

    name: str
    preview: StagePreview


@dataclass(frozen=True)
class BatchDone:
    """Finished pictures of the run ``name``."""

    name: str
    results: list[ImageResult]


@dataclass(frozen=True)
class FinishedRun:
    """All images of one configuration.

    Attributes:
        name, config: the configuration.
        results: the images.
        statistics: cache statistics of the run.
        reuse: the same by layer.
        reasons: why nothing was reused, if so.
    """

    name: str
    config: CacheConfig
    results: list[ImageResult]
    statistics: dict[str, Any]
    reuse: ReuseMap
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """The end of a drawing: its runs, the asked-for one first, and warnings worth showing."""

    request: DrawRequest
    runs: list[FinishedRun]
    notes: list[str]


@dataclass(frozen=True)
class Calibrated:
    """The end of a calibration: the table that is in use now."""

    request: CalibrationRequest
    tables: SimilarityTables
    notes: list[str]


class Tracker:
    """Turns the pipeline's callbacks into events with the progress of the whole request.

    Attributes:
        name: the run that the next stages belong to.
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
        self._size = request.options.batch_size or DEFAULT_BATCH_SIZE
        self._total = len(names) * math.ceil(self._images / self._size) * len(self._lengths)
        self._stages = dict.fromkeys(names, 0)

    def on_stage(self, si: int, num_stages: int) -> None:
        first = self._stages[self.name] // num_stages * self._size
        self._stages[self.name] += 1
        self._emit(
            Progress(
                self.name,
                sum(self._stages.values()),
                self._total,
                first + 1,
                min(first + self._size, self._images),
                self._images,
                self._lengths[si],
            )
        )

    def on_preview(self, preview: StagePreview) -> None:
        self._emit(Preview(self.name, preview))
