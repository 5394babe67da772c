"""What the pipelines of HART and VAR share: requests in, pictures out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from tqdm.auto import tqdm

from hart.engine import Engine, EngineDecoder
from hart.modules.models.transformer.feature_caching_mixin import warn_about_missing
from hart.modules.models.transformer.generation_state import GenerationSteps
from hart.modules.models.transformer.wrappers import innermost
from hart.modules.networks.caching.generation_counts import GenerationCounts
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline.by_plan import DrawsByPlan
from hart.pipeline.folders import PathLike
from hart.pipeline.options import ImageRequest, SamplingChoices, batches
from hart.pipeline.recipe import recipe_of, redraw
from hart.pipeline.results import (
    DECODE_PART,
    PREVIEW_PART,
    TEXT_PART,
    HARTPipelineOutput,
    ImageResult,
    StagePreview,
    calls_of,
    image_results,
    part_seconds,
)
from hart.utils.images import png_texts, to_pil
from hart.utils.timing import Timeline

StageCallback = Callable[[int, int], None]
PreviewCallback = Callable[[StagePreview], None]


class Pipeline(DrawsByPlan):
    """A transformer with feature caching and an image decoder as one callable.

    :class:`HARTPipeline` draws prompts, :class:`VARPipeline` classes; "prompts" stands for both.

    Args:
        model: the transformer, or a wrapper around one: a compiled model, adapters, a class that
            forwards its attributes or holds it as ``module``; its autoencoder decodes the images.
        folders: where the parts came from, if they were loaded.

    Attributes:
        draws: what it is called with, "prompts" or "classes".
        options_class: how it draws.
        model: what was given, to be replaced by another; of a wrapper that forwards no attributes
            what it wraps.
        text_model, text_tokenizer, system_prompt: of prompts; None and empty for classes.
        use_engine: whether the engine executes the model, which is faster and the same up to
            rounding; otherwise the model's own, plain path does.
        compile: let the engine compile what the blocks do token by token; the first image of every
            batch size waits for it.
        tiled_decode: decode large feature maps in overlapping tiles, which needs less memory and
            changes the images slightly; see ``decode_in_tiles``.
    """

    draws: ClassVar[str]
    options_class: ClassVar[type[SamplingChoices]]

    def __init__(self, model: Any, folders: Any = None) -> None:
        self.model = model
        self.folders = folders
        self.text_model: Any = None
        self.text_tokenizer: Any = None
        self.system_prompt = ""
        self.use_engine, self.compile, self.tiled_decode = True, False, False
        self._decoder = EngineDecoder()

    @property
    def model(self) -> Any:
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        inside = innermost(model)
        forwards = getattr(model, "innermost", None) is inside
        self._model = model if forwards else inside

    @property
    def transformer(self) -> Any:
        """The transformer itself, inside whatever wraps ``model``; its state is set here.

        Raises:
            AttributeError: state was set on a wrapper, where it would do nothing.
        """
        return innermost(self.model)

    @property
    def device(self) -> torch.device:
        """Where the transformer computes."""
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def __call__(self, prompts: Any, **arguments: Any) -> HARTPipelineOutput:
        """Draw images; arguments as for :meth:`stream`."""
        results = [result for batch in self.stream(prompts, **arguments) for result in batch]
        images = [result.image for result in results]
        return HARTPipelineOutput(images, results, self.transformer.get_cache_statistics())

    def stream(
        self,
        prompts: Any,
        *,
        quiet: bool = False,
        callback: StageCallback | None = None,
        preview: PreviewCallback | None = None,
        **options: Any,
    ) -> Iterator[list[ImageResult]]:
        """Draw images; yields every batch of them as soon as it is finished.

        The arguments are checked at once. The model's cache statistics start anew with the first
        batch.

        Args:
            prompts: one prompt or class, or several.
            quiet: no progress bar; there is none without a terminal either.
            callback: called after every stage with its index and the number of stages.
            preview: sees the decoded pictures after every stage but the last, whose pictures are
                the results; its decoding is in none of the results' times.
            options: fields of ``options_class`` by name.

        Raises:
            ValueError: no prompts, an empty prompt, or an option that is not allowed.

        Warns:
            UserWarning: for a prompt that is cut to the text context.
        """
        checked = self._checked(options)
        return self._run(self._plan(prompts, checked), checked, quiet, callback, preview)

    def draw_together(
        self,
        requests: Sequence[ImageRequest],
        *,
        callback: StageCallback | None = None,
        **options: Any,
    ) -> list[ImageResult]:
        """Draw images that have seeds of their own as one batch.

        Options as for calling the pipeline; ``seed``, ``num_images_per_prompt`` and ``batch_size``
        mean nothing here. Adds to the model's cache statistics.
        """
        return self._generate(requests, self._checked(options), callback)

    def redraw(self, picture: str | os.PathLike | Image | Mapping[str, str]) -> Image:
        """Draw a picture again, from what its file says.

        The weights must be those that it was drawn with. On the same kind of device, in the same
        dtype and with as many threads it is the same to the bit; the images of its batch are drawn
        along with it for that. The pipeline is as before afterwards.

        Args:
            picture: a PNG file of this library, an image opened from one, or its texts.

        Raises:
            ValueError: the picture does not say enough, or something else than this model draws.
            OSError: the file cannot be read.

        Warns:
            UserWarning: it was drawn with another device, dtype or number of threads.
        """
        return redraw(self, picture if isinstance(picture, Mapping) else png_texts(picture))

    def decode(self, f_hat: torch.Tensor) -> torch.Tensor:
        """Feature maps (B, Z, P, P) to images (B, 3, H, W) in [0, 1]."""
        if self.tiled_decode:
            return self._decoder.decode_in_tiles(self.transformer, f_hat)
        if self.use_engine:
            return self._decoder.decode(self.transformer, f_hat)
        return self.model.decode_feature_map(f_hat)

    @property
    def decoder_copy_bytes(self) -> int:
        """Memory of the engine's copy of the image decoder; 0 before it has decoded."""
        return self._decoder.size_bytes

    # --- similarity data ----------------------------------------------------------------------

    def calibrate(self, prompts: Any, **arguments: Any) -> SimilarityTables:
        """Measure similarities on images of ``prompts`` and merge them into the model's tables.

        Arguments as for :meth:`stream`; the images are dropped.
        """
        with self.calibrating():
            for _ in self.stream(prompts, **arguments):
                pass
        return self.transformer.similarity

    @contextlib.contextmanager
    def calibrating(self) -> Iterator[None]:
        """Every generation inside computes everything and is measured."""
        before = self.transformer.calibration
        self.transformer.calibration = True
        try:
            yield
        finally:
            self.transformer.calibration = before

    def load_similarity(self, path: PathLike) -> None:
        """Give the model the similarity data of a file.

        Raises:
            ValueError: the file is damaged or belongs to another model.
            OSError: the file cannot be read.

        Warns:
            UserWarning: it lacks transitions between this model's stages.
        """
        warn_about_missing(self.transformer.load_similarity_data(path), Path(path))

    @property
    def similarity_path(self) -> Path | None:
        """The file that the model's similarity data were read from, if any."""
        return self.transformer.similarity_path

    @similarity_path.setter
    def similarity_path(self, path: Path | None) -> None:
        self.transformer.similarity_path = path

    # --- what a kind of model has of its own --------------------------------------------------

    def _checked(self, options: Mapping[str, Any]) -> Any:
        """Options by name, checked against the model."""
        return self.options_class(**options)

    def _plan(self, prompts: Any, options: Any) -> list[ImageRequest]:
        """Every image of a run."""
        raise NotImplementedError

    def _condition(self, batch: Sequence[ImageRequest], options: Any) -> dict[str, Any]:
        """Arguments of ``generate_feature_map`` that only this kind of model has."""
        raise NotImplementedError

    # --- one run ------------------------------------------------------------------------------

    def _num_stages(self, options: SamplingChoices) -> int:
        chunks = getattr(options, "num_maskgit_iters", 1)  # 0 leaves the last stage out
        return len(self.transformer.patch_nums) - (chunks == 0)

    def _run(
        self,
        requests: list[ImageRequest],
        options: SamplingChoices,
        quiet: bool,
        callback: StageCallback | None,
        preview: PreviewCallback | None,
    ) -> Iterator[list[ImageResult]]:
        self.transformer.reset_cache_statistics()
        pieces = list(batches(requests, options.batch_size))
        total = len(pieces) * self._num_stages(options)
        hidden = True if quiet else None  # None hides the bar where there is no terminal
        with tqdm(total=total, unit="stage", disable=hidden) as bar:

            def on_stage(si: int, num_stages: int) -> None:
                bar.update()
                if callback is not None:
                    callback(si, num_stages)

            for batch in pieces:
                bar.set_description(f"image {batch[-1].index + 1}/{len(requests)}")
                yield self._generate(batch, options, on_stage, preview)

    def _generate(
        self,
        batch: Sequence[ImageRequest],
        options: SamplingChoices,
        callback: StageCallback | None,
        preview: PreviewCallback | None = None,
    ) -> list[ImageResult]:
        recipe = recipe_of(self, options)
        timeline = Timeline(self.device)
        condition = self._condition(batch, options)
        timeline.mark(TEXT_PART)
        stages = self._num_stages(options)
        counts: GenerationCounts | None = None

        def on_stage(si: int, num_stages: int) -> None:
            nonlocal counts
            running = self.transformer.caching.running
            counts = running and running.counts
            if callback is not None:
                callback(si, num_stages)

        def show(si: int, f_hat: torch.Tensor) -> None:
            if preview is not None and si < stages - 1:
                preview(StagePreview(si, stages, batch, to_pil(self.decode(f_hat))))
                timeline.mark(PREVIEW_PART)

        f_hat = self._feature_map(
            batch,
            options,
            condition,
            callback=on_stage,
            timeline=timeline,
            steps=Engine(self.transformer, self.compile) if self.use_engine else None,
            on_feature_map=None if preview is None else show,
        )
        images = to_pil(self.decode(f_hat))
        timeline.mark(DECODE_PART)
        seconds = part_seconds(timeline, len(self.transformer.patch_nums))
        return image_results(batch, images, seconds, calls_of(counts), recipe)

    def _feature_map(
        self,
        batch: Sequence[ImageRequest],
        options: SamplingChoices,
        condition: Mapping[str, Any],
        **watched: Any,
    ) -> torch.Tensor:
        """(B, Z, P, P), watched and executed as arguments of ``generate_feature_map`` say."""
        return self.model.generate_feature_map(
            len(batch),
            **condition,
            cfg=options.cfg_scale,
            top_p=options.top_p,
            more_smooth=options.more_smooth,
            generator=[torch.Generator(self.device).manual_seed(each.seed) for each in batch],
            **watched,
        )

    def feature_map(
        self, batch: Sequence[ImageRequest], steps: GenerationSteps, **options: Any
    ) -> torch.Tensor:
        """The feature maps (B, Z, P, P) of images, not decoded, for those who measure.

        Args:
            steps: executes the expensive steps and may watch them.
            options: fields of ``options_class`` by name.
        """
        checked = self._checked(options)
        return self._feature_map(batch, checked, self._condition(batch, checked), steps=steps)

    def requests(self, prompts: Any, **options: Any) -> list[ImageRequest]:
        """Every image that the pipeline would draw of prompts, with its seed.

        Raises:
            ValueError: see :meth:`stream`.
        """
        return self._plan(prompts, self._checked(options))
