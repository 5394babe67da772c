"""What happens while a request is served."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hart.evaluation.reuse_plot import ReuseMap
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline, ImageResult, StagePreview
from hart.pipeline.options import DEFAULT_BATCH_SIZE
from hart.web.background import Emit
from hart.web.requests import CalibrationRequest, DrawRequest


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
    """Turns the pipeline's callbacks into events with the progress of the whole request."""

    def __init__(
        self,
        pipeline: HARTPipeline,
        emit: Emit,
        name: str,
        request: DrawRequest | CalibrationRequest,
        num_runs: int,
        runs_before: int,
    ) -> None:
        self._lengths = pipeline.model.schedule.lengths
        self._emit, self._name = emit, name
        self._images = len(request.prompts) * request.options.num_images_per_prompt
        self._size = request.options.batch_size or DEFAULT_BATCH_SIZE
        batches = math.ceil(self._images / self._size)
        self._total = num_runs * batches * len(self._lengths)
        self._done = runs_before * batches * len(self._lengths)
        self._stages_of_run = 0

    def on_stage(self, si: int, num_stages: int) -> None:
        first = self._stages_of_run // num_stages * self._size
        self._stages_of_run += 1
        self._done += 1
        self._emit(
            Progress(
                self._name,
                self._done,
                self._total,
                first + 1,
                min(first + self._size, self._images),
                self._images,
                self._lengths[si],
            )
        )

    def on_preview(self, preview: StagePreview) -> None:
        self._emit(Preview(self._name, preview))
