"""Drawing one batch: from its conditions to finished images, and who looks on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from hart.engine import Engine
from hart.modules.models.transformer.generation_state import StageCallback
from hart.modules.networks.caching.generation_counts import GenerationCounts
from hart.modules.networks.caching.statistics import CacheStatistics
from hart.pipeline.finite import DECODER, TEXT, FiniteWatch, warn_not_finite
from hart.pipeline.options import ImageRequest, SamplingChoices
from hart.pipeline.recipe import recipe_of
from hart.pipeline.results import (
    DECODE_PART,
    PREVIEW_PART,
    TEXT_PART,
    ImageResult,
    StagePreview,
    calls_of,
    image_results,
    part_seconds,
)
from hart.utils.images import OUTPUT_TYPES, in_form, to_pil
from hart.utils.names import suggestion
from hart.utils.timing import Timeline

if TYPE_CHECKING:
    from hart.pipeline.base import Pipeline

PreviewCallback = Callable[[StagePreview], None]
StepCallback = Callable[[Any, int, int, dict[str, Any]], Any]
FEATURE_MAP = "f_hat"


class InterruptedDrawingError(Exception):
    """Somebody has set ``pipeline._interrupt``."""


@dataclass(frozen=True)
class Onlooker:
    """What is told while images are drawn, and in which form they are wanted.

    Attributes as the arguments of :meth:`Pipeline.stream`.

    Raises:
        ValueError: an unknown form, or a tensor that there is not.
    """

    callback: StageCallback | None = None
    preview: PreviewCallback | None = None
    callback_on_step_end: StepCallback | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ()
    output_type: str = "pil"

    def __post_init__(self) -> None:
        if self.output_type not in OUTPUT_TYPES:
            hint = suggestion(self.output_type, OUTPUT_TYPES)
            raise ValueError(
                f"output_type is {self.output_type!r}; allowed are {', '.join(OUTPUT_TYPES)}{hint}"
            )
        unknown = [n for n in self.callback_on_step_end_tensor_inputs if n != FEATURE_MAP]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs names {unknown[0]!r}; allowed is {FEATURE_MAP}"
            )

    def also(self, callback: Callable[[], Any]) -> Onlooker:
        """The same, with something else that is told the end of every stage first."""

        def both(si: int, num_stages: int) -> None:
            callback()
            if self.callback is not None:
                self.callback(si, num_stages)

        return replace(self, callback=both)


@dataclass
class BatchDrawing:
    """One batch while it is drawn."""

    pipeline: Pipeline
    batch: Sequence[ImageRequest]
    options: SamplingChoices
    onlooker: Onlooker
    statistics: CacheStatistics | None = None
    counts: GenerationCounts | None = field(default=None, init=False)
    f_hat: Any = field(default=None, init=False)  # the feature map so far

    def draw(self) -> list[ImageResult]:
        """The finished images; after an interruption as they were then."""
        pipeline, options = self.pipeline, self.options
        recipe: Mapping[str, str] = recipe_of(pipeline, options)
        self.timeline = timeline = Timeline(pipeline.device)
        watch = FiniteWatch(
            Engine(pipeline.transformer, pipeline.compile)
            if pipeline.use_engine
            else pipeline.transformer
        )
        condition = pipeline._condition(self.batch, options)
        if pipeline.text_model is not None:
            watch.see(TEXT, condition["label_B"])
        timeline.mark(TEXT_PART)
        self.stages = pipeline._num_stages(options)
        try:
            self.f_hat = pipeline._feature_map(
                self.batch,
                options,
                condition,
                callback=self._on_stage,
                timeline=timeline,
                statistics=self.statistics,
                steps=watch,
                on_feature_map=self._on_feature_map,
            )
        except InterruptedDrawingError:
            recipe = {}  # it would draw the whole pictures
        images = self._finished(pipeline.decode(self.f_hat), watch)
        timeline.mark(DECODE_PART)
        seconds = part_seconds(timeline, len(pipeline.transformer.patch_nums))
        return image_results(self.batch, images, seconds, calls_of(self.counts), recipe)

    def _finished(self, images: torch.Tensor, watch: FiniteWatch) -> list[Any]:
        """Images (B, 3, H, W) in the form that is wanted."""
        watch.see(DECODER, images)
        part = watch.first()
        if part is not None:
            warn_not_finite(part, self.pipeline.dtype)
            images = images.nan_to_num(0.0)
        return in_form(images, self.onlooker.output_type)

    def _on_feature_map(self, si: int, f_hat: torch.Tensor) -> None:
        self.f_hat = f_hat
        if self.onlooker.preview is not None and si < self.stages - 1:
            images = to_pil(self.pipeline.decode(f_hat))
            self.onlooker.preview(StagePreview(si, self.stages, self.batch, images))
            self.timeline.mark(PREVIEW_PART)

    def _on_stage(self, si: int, num_stages: int) -> None:
        running = self.pipeline.transformer.caching.running
        self.counts = running and running.counts
        if self.onlooker.callback is not None:
            self.onlooker.callback(si, num_stages)
        if self.onlooker.callback_on_step_end is not None:
            tensors = dict.fromkeys(self.onlooker.callback_on_step_end_tensor_inputs, self.f_hat)
            length = self.pipeline.transformer.schedule.lengths[si]
            self.onlooker.callback_on_step_end(self.pipeline, si, length, tensors)
        if self.pipeline._interrupt and si < self.stages - 1:
            raise InterruptedDrawingError
