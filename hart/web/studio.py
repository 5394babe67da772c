"""One model and the people who share it: requests one after the other, events while they run."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from PIL import Image

from hart.evaluation.comparison import REFERENCE
from hart.evaluation.reuse_plot import ReuseMap
from hart.evaluation.timing import rotated
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import NO_CACHE
from hart.modules.networks.caching.statistics import CacheStatistics
from hart.pipeline import GenerationOptions, HARTPipeline, ImageResult
from hart.pipeline.options import ImageRequest
from hart.web import DEFAULT_MAX_WAITING
from hart.web.events import (
    BatchDone,
    Calibrated,
    Drawn,
    FinishedRun,
    Tracker,
    Tuned,
    WarmingUp,
    batch_size,
)
from hart.web.requests import CalibrationRequest, DrawRequest, TuningRequest
from hart.web.tuning import find_plan
from hart.web.worker import Emit, StoppedError, Worker

_MAX_WARM = 100
SAMPLES_S = 60.0
"""No further sample is begun after so long."""

Judge = Callable[[str], bool]
"""Whether a prompt is unsafe."""


class UnsafePromptError(ValueError):
    """A prompt was refused by the safety model."""


class Studio:
    """Serves one request at a time; further ones wait for their turn.

    Args:
        pipeline: the model. Its cache configuration is left as it was after every request; a
            calibration replaces its similarity table for everybody.
        is_unsafe: judges prompts; None lets all of them pass.
        max_waiting: requests that may wait; further ones end with
            :class:`hart.web.worker.BusyError`.

    Attributes:
        samples: prompts and pictures that :meth:`warm_up` has drawn.
        is_warm: whether there will be no more of them.
    """

    def __init__(
        self,
        pipeline: HARTPipeline,
        is_unsafe: Judge | None = None,
        max_waiting: int = DEFAULT_MAX_WAITING,
    ) -> None:
        self.pipeline = pipeline
        self.samples: list[tuple[str, Image.Image]] = []
        self.is_warm = True
        self._is_unsafe = is_unsafe
        self._worker = Worker(max_waiting)
        self._own_tables = copy.deepcopy(pipeline.transformer.similarity)
        self._warm: set[tuple[CacheConfig, int]] = set()

    def draw(self, request: DrawRequest) -> Generator[Any, None, None]:
        """Draw when the model is free: yields :class:`Waiting`, :class:`WarmingUp`,
        :class:`Progress`, :class:`Preview`, :class:`BatchDone` and at the end :class:`Drawn`; None
        where nothing happened for a while.

        Closing the iterator stops the drawing after the current stage.

        Raises:
            UnsafePromptError: a prompt was refused.
            BusyError: too many requests wait.
        """
        return self._worker.events(partial(self._draw, request))

    def calibrate(self, request: CalibrationRequest) -> Generator[Any, None, None]:
        """Measure similarities when the model is free: :class:`Waiting`, :class:`Progress`, then
        :class:`Calibrated`; raises as :meth:`draw`.

        A calibration that is closed or fails leaves the table as it was.
        """
        return self._worker.events(partial(self._calibrate, request))

    def restore(self) -> Generator[Any, None, None]:
        """Use the checkpoint's own table again, once the model is free; raises BusyError."""
        return self._worker.events(self._restore)

    def tune(self, request: TuningRequest) -> Generator[Any, None, None]:
        """Find a plan when the model is free: :class:`Waiting`, :class:`Step`, then :class:`Tuned`;
        raises as :meth:`draw`, and ValueError if the target cannot be reached."""
        return self._worker.events(partial(self._tune, request))

    def close(self) -> None:
        """Stop drawing; returns when nothing is drawn any more."""
        self._worker.close()

    def warm_up(self, prompts: Sequence[str], config: CacheConfig, seed: int) -> None:
        """Draw samples, so that the first visitor sees some and does not wait for what is only done
        once. Returns at once; gives way when a request waits, and ends after a minute."""
        self.is_warm = False
        self._worker.start(partial(self._warm_up_before_visitors, prompts, config, seed))

    # --- one request --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self, emit: Emit, prompts: list[str]) -> Iterator[list[str]]:
        """Leave the model as it was; yields the list that collects the library's warnings."""
        model = self.pipeline.transformer
        before = model.cache_config, model.use_cache
        notes: list[str] = []
        try:
            with _warnings_into(notes):
                self._check_prompts(emit, prompts)
                yield notes
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said when the configuration was first set
                model.set_cache_config(before[0])
            model.use_cache = before[1]

    def _check_prompts(self, emit: Emit, prompts: list[str]) -> None:
        for number, prompt in enumerate(prompts, start=1):
            emit(None)
            if self._is_unsafe is not None and self._is_unsafe(prompt):
                raise UnsafePromptError(
                    f"Prompt {number} was refused by the safety check. Please write another one."
                )

    def _draw(self, request: DrawRequest, emit: Emit) -> None:
        configs = {request.name: request.config}
        if request.compare:
            configs.setdefault(REFERENCE, NO_CACHE)
        with self._turn(emit, request.prompts) as notes:
            if len(configs) > 1:
                self._warm_up(configs.values(), request, emit)
            tracker = Tracker(self.pipeline, emit, request, list(configs))
            runs = [_Run(self.pipeline, name, config) for name, config in configs.items()]
            streams = [run.stream(request, tracker) for run in runs]
            # Batch by batch in turns, each first as often as the other: a machine drifts.
            for number in range(math.ceil(len(request.prompts) / batch_size(request))):
                for run, stream in rotated(list(zip(runs, streams, strict=True)), number):
                    emit(BatchDone(run.name, run.draw_batch(stream, tracker)))
            finished = [run.finish() for run in runs]
        emit(Drawn(request, finished, notes))

    def _warm_up(self, configs: Iterable[CacheConfig], request: DrawRequest, emit: Emit) -> None:
        """Draw a batch of the request's size with each configuration that never drew one."""
        size = min(len(request.prompts), batch_size(request))
        cold = [config for config in configs if (config, size) not in self._warm]
        for config in cold:
            emit(WarmingUp())
            self.pipeline.transformer.set_cache_config(config)
            self.pipeline.transformer.use_cache = True
            batch = [ImageRequest(i, request.prompts[i], i) for i in range(size)]
            self.pipeline.draw_together(batch, callback=lambda *_: emit(None))
            if len(self._warm) >= _MAX_WARM:  # visitors think of ever new ones
                self._warm.clear()
            self._warm.add((config, size))

    def _warm_up_before_visitors(
        self, prompts: Sequence[str], config: CacheConfig, seed: int, emit: Emit
    ) -> None:
        model, end = self.pipeline.transformer, time.monotonic() + SAMPLES_S

        def give_way(event: Any) -> None:
            if self._worker.waiting:
                raise StoppedError
            emit(event)

        try:
            with self._turn(give_way, []):
                request = DrawRequest([*prompts[:1]], GenerationOptions(), "", config)
                self._warm_up([NO_CACHE, config], request, give_way)
                model.set_cache_config(config)
                for prompt in prompts:
                    if time.monotonic() < end:
                        batch = [ImageRequest(0, prompt, seed)]
                        (result,) = self.pipeline.draw_together(
                            batch, callback=lambda *_: give_way(None)
                        )
                        self.samples.append((prompt, result.image))
            model.reset_cache_statistics()
        finally:
            self.is_warm = True

    def _restore(self, emit: Emit) -> None:
        self.pipeline.transformer.similarity = copy.deepcopy(self._own_tables)

    def _tune(self, request: TuningRequest, emit: Emit) -> None:
        with self._turn(emit, [*request.prompts, *request.held_out]) as notes:
            plan = find_plan(self.pipeline, request, emit)
        emit(Tuned(request, plan, notes))

    def _calibrate(self, request: CalibrationRequest, emit: Emit) -> None:
        model = self.pipeline.transformer
        with self._turn(emit, request.prompts) as notes:
            before = model.similarity
            if request.add:
                model.similarity = copy.deepcopy(before)
            else:
                model.clear_similarity_data()
            tracker = Tracker(self.pipeline, emit, request, ["calibration"])
            how = {"quiet": True, "callback": tracker.on_stage, **request.options.to_dict()}
            try:
                self.pipeline.calibrate(request.prompts, **how)
            except BaseException:
                model.similarity = before
                raise
            tables = copy.deepcopy(model.similarity)
        emit(Calibrated(request, tables, notes))


class _Run:
    """The images of one configuration, batch by batch, and their statistics."""

    def __init__(self, pipeline: HARTPipeline, name: str, config: CacheConfig) -> None:
        self._pipeline, self.name, self._config = pipeline, name, config
        self._statistics = CacheStatistics(pipeline.transformer.transformer_shape)
        self._results: list[ImageResult] = []

    def stream(self, request: DrawRequest, tracker: Tracker) -> Iterator[list[ImageResult]]:
        how = {"quiet": True, "callback": tracker.on_stage, **request.options.to_dict()}
        preview = tracker.on_preview if request.previews else None
        how |= {"preview": preview, "statistics": self._statistics}
        return self._pipeline.stream(request.prompts, **how)

    def draw_batch(
        self, stream: Iterator[list[ImageResult]], tracker: Tracker
    ) -> list[ImageResult]:
        self._enter()
        tracker.name = self.name
        batch = next(stream)
        self._results += batch
        return batch

    def finish(self) -> FinishedRun:
        self._enter()
        model = self._pipeline.transformer
        reused = model.cache_statistics.total().reused
        reasons = () if reused else model.decision_plan().reasons
        return FinishedRun(
            self.name,
            self._config,
            self._results,
            model.get_cache_statistics(),
            ReuseMap.of(model),
            model.decision_plan(),
            reasons,
        )

    def _enter(self) -> None:
        """The model draws with this configuration and counts for it from now on."""
        model = self._pipeline.transformer
        model.set_cache_config(self._config)
        model.use_cache = True
        model.cache_statistics = self._statistics


@contextlib.contextmanager
def _warnings_into(notes: list[str]) -> Iterator[None]:
    """Collect warnings of this thread that are meant for users."""
    thread = threading.get_ident()
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        show = warnings.showwarning

        def collect(message, category, *where, **options) -> None:
            if category is not UserWarning or threading.get_ident() != thread:
                show(message, category, *where, **options)
            elif str(message) not in notes:
                notes.append(str(message))

        warnings.showwarning = collect
        yield
