"""Finding a plan for the page: the steps of ``hart tune`` with few prompts."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

from tqdm import tqdm

from hart.modules.networks.caching.presets import NO_CACHE
from hart.pipeline import HARTPipeline
from hart.tuning.measuring import measure
from hart.tuning.plan import TunedPlan
from hart.tuning.tuner import Tuner
from hart.web.events import Step
from hart.web.requests import TuningRequest
from hart.web.worker import Emit

NUM_TRIED, TRIES = 4, 12
"""Prompts that whole plans are tried on, and how many plans."""


def find_plan(pipeline: HARTPipeline, request: TuningRequest, emit: Emit) -> TunedPlan:
    """Measure, solve, refine, correct and verify, with :class:`Step` after step.

    Raises:
        ValueError: the target cannot be reached, or the engine does not execute the model.
    """
    how: dict[str, Any] = {**request.options.to_dict(), "bar": partial(_Steps, emit)}
    del how["num_images_per_prompt"]
    pipeline.transformer.set_cache_config(NO_CACHE)
    known = measure(pipeline, request.prompts, **how)
    tuner = Tuner(pipeline, known, request.prompts[:NUM_TRIED], **how)
    tuner.measure_pictures()
    return tuner.tune(request.target, TRIES).verify(pipeline, request.held_out, **how)


class _Steps(tqdm):
    """A progress bar that shows itself as events."""

    def __init__(self, emit: Emit, *content: Any, **how: Any) -> None:
        self._emit = emit
        own = {"disable": False, "leave": False, "miniters": 1, "mininterval": 0}
        super().__init__(*content, **{**how, **own, "file": io.StringIO()})

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> bool:
        """Ends the work where nobody waits for it; what the original calls holds a lock."""
        if self.total:
            known = self.format_dict
            rate = known["rate"] or (self.n / known["elapsed"] if known["elapsed"] else 0)
            left_s = (self.total - self.n) / rate if rate else None
            self._emit(Step(self.desc.removesuffix(": "), self.n, self.total, left_s))
        return True

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        return True
