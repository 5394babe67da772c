"""One model and the people who share it: requests one after the other, events while they run."""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hart.evaluation.reuse_plot import ReuseMap
from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline import HARTPipeline, ImageResult
from hart.web.background import Emit, in_background
from hart.web.events import BatchDone, Calibrated, Drawn, FinishedRun, Tracker
from hart.web.requests import CalibrationRequest, DrawRequest

REFERENCE = "no-cache"
_WAIT_S = 0.1

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
    """

    def __init__(self, pipeline: HARTPipeline, is_unsafe: Judge | None = None) -> None:
        self.pipeline = pipeline
        self._is_unsafe = is_unsafe
        self._model_lock = threading.Lock()
        self._own_tables = copy.deepcopy(pipeline.model.similarity)

    def draw(self, request: DrawRequest) -> Iterator[Any]:
        """Draw in the background: yields :class:`Progress`, :class:`Preview`, :class:`BatchDone`
        and at the end :class:`Drawn`; None where nothing happened for a while.

        Closing the iterator stops the drawing after the current stage.

        Raises:
            UnsafePromptError: a prompt was refused.
        """
        return in_background(partial(self._draw, request))

    def calibrate(self, request: CalibrationRequest) -> Iterator[Any]:
        """Measure similarities in the background: :class:`Progress`, then :class:`Calibrated`.

        A calibration that is closed or fails leaves the table as it was.

        Raises:
            UnsafePromptError: a prompt was refused.
        """
        return in_background(partial(self._calibrate, request))

    def restore_tables(self) -> None:
        """Use the checkpoint's own similarity table again."""
        with self._model_lock:
            self.pipeline.transformer.similarity = copy.deepcopy(self._own_tables)

    # --- one request --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self, emit: Emit, prompts: list[str]) -> Iterator[list[str]]:
        """Have the model alone; yields the list that collects the library's warnings."""
        while not self._model_lock.acquire(timeout=_WAIT_S):
            emit(None)  # leaves if nobody waits any more
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
            self._model_lock.release()

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
            configs.setdefault(
                REFERENCE, CacheConfig(enable_attn_cache=False, enable_mlp_cache=False)
            )
        with self._turn(emit, request.prompts) as notes:
            runs: list[FinishedRun] = []
            for name, config in configs.items():
                runs.append(self._run(name, config, request, emit, len(configs), len(runs)))
        emit(Drawn(request, runs, notes))

    def _run(
        self,
        name: str,
        config: CacheConfig,
        request: DrawRequest,
        emit: Emit,
        num_runs: int,
        runs_before: int,
    ) -> FinishedRun:
        model = self.pipeline.transformer
        model.set_cache_config(config)
        model.use_cache = True
        results: list[ImageResult] = []
        tracker = Tracker(self.pipeline, emit, name, request, num_runs, runs_before)
        stream = self.pipeline.stream(
            request.prompts,
            quiet=True,
            callback=tracker.on_stage,
            preview=tracker.on_preview if request.previews else None,
            **request.options.to_dict(),
        )
        for batch in stream:
            results += batch
            emit(BatchDone(name, batch))
        reused = model.cache_statistics.total().reused
        reasons = () if reused else model.decision_plan().reasons
        return FinishedRun(
            name, config, results, model.get_cache_statistics(), ReuseMap.of(model), reasons
        )

    def _calibrate(self, request: CalibrationRequest, emit: Emit) -> None:
        model = self.pipeline.transformer
        with self._turn(emit, request.prompts) as notes:
            before = model.similarity
            if request.add:
                model.similarity = copy.deepcopy(before)
            else:
                model.clear_similarity_data()
            tracker = Tracker(self.pipeline, emit, "calibration", request, 1, 0)
            try:
                self.pipeline.calibrate(
                    request.prompts,
                    quiet=True,
                    callback=tracker.on_stage,
                    **request.options.to_dict(),
                )
            except BaseException:
                model.similarity = before
                raise
            tables = copy.deepcopy(model.similarity)
        emit(Calibrated(request, tables, notes))


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
