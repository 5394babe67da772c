"""Prompts in, pictures out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hart.engine import Engine, EngineDecoder
from hart.modules.models.transformer.generation_state import check_chunks
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.saved_similarity import warn_about_missing
from hart.modules.models.transformer.wrappers import innermost
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline.folders import (
    CheckpointFolders,
    PathLike,
)
from hart.pipeline.options import GenerationOptions, ImageRequest, batches, plan_images
from hart.pipeline.pretrained import PretrainedPipeline
from hart.pipeline.recipe import recipe_of, redraw
from hart.pipeline.results import (
    DECODE_PART,
    PREVIEW_PART,
    TEXT_PART,
    HARTPipelineOutput,
    ImageResult,
    StagePreview,
    calls_between,
    image_results,
    part_seconds,
)
from hart.pipeline.text import encode_unique
from hart.utils.constants import llm_system_prompt
from hart.utils.images import png_texts, to_pil
from hart.utils.timing import Timeline

StageCallback = Callable[[int, int], None]
PreviewCallback = Callable[[StagePreview], None]


class HARTPipeline(PretrainedPipeline):
    """Text encoder, transformer with feature caching, and image decoder as one callable.

    Args:
        model: the transformer, or a wrapper around one: a compiled model, adapters, a class that
            forwards its attributes or holds it as ``module``; its autoencoder decodes the images.
        text_model: the text encoder, on the transformer's device.
        text_tokenizer: the text encoder's tokenizer.
        system_prompt: instruction put before every prompt; an empty one means none.
        folders: where the parts came from, if they were loaded.

    Attributes:
        draws: what it is called with, "prompts" or "classes".
        model: what was given, to be replaced by another; of a wrapper that forwards no attributes
            what it wraps.
        use_engine: whether the engine executes the model, which is faster and the same up to
            rounding; otherwise the model's own, plain path does.
        compile: let the engine compile what the blocks do token by token; the first image of every
            batch size waits for it.
        tiled_decode: decode large feature maps in overlapping tiles, which needs less memory and
            changes the images slightly; see ``decode_in_tiles``.
    """

    options_class = GenerationOptions
    draws = "prompts"

    def __init__(
        self,
        model: HARTForT2IEnhanced,
        text_model: PreTrainedModel,
        text_tokenizer: PreTrainedTokenizerBase,
        system_prompt: str = llm_system_prompt,
        folders: CheckpointFolders | None = None,
    ) -> None:
        self.model = model
        self.text_model = text_model
        self.text_tokenizer = text_tokenizer
        self.system_prompt = system_prompt
        self.folders = folders
        self.use_engine, self.compile, self.tiled_decode = True, False, False
        self._decoder = EngineDecoder()

    @property
    def model(self) -> HARTForT2IEnhanced:
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        inside = innermost(model)
        forwards = getattr(model, "innermost", None) is inside
        self._model = model if forwards else inside

    @property
    def transformer(self) -> HARTForT2IEnhanced:
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

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        quiet: bool = False,
        callback: StageCallback | None = None,
        **options,
    ) -> HARTPipelineOutput:
        """Draw images.

        Args:
            prompts: one prompt or several.
            quiet: no progress bar; there is none without a terminal either.
            callback: called after every stage with its index and the number of stages.
            options: fields of :class:`GenerationOptions` by name.

        Raises:
            ValueError: no prompts, an empty prompt, or an option that is not allowed.

        Warns:
            UserWarning: for a prompt that is cut to the text context.
        """
        results = [
            result
            for batch in self.stream(prompts, quiet=quiet, callback=callback, **options)
            for result in batch
        ]
        images = [result.image for result in results]
        return HARTPipelineOutput(images, results, self.transformer.get_cache_statistics())

    def stream(
        self,
        prompts: str | Sequence[str],
        *,
        quiet: bool = False,
        callback: StageCallback | None = None,
        preview: PreviewCallback | None = None,
        **options,
    ) -> Iterator[list[ImageResult]]:
        """As calling the pipeline, but yields every batch of images as soon as it is finished.

        The arguments are checked at once. The model's cache statistics start anew with the first
        batch. ``preview`` sees the decoded pictures after every stage but the last, whose pictures
        are the results; its decoding is in none of the results' times.
        """
        checked = self.options_class(**options)
        return self._run(self._plan(prompts, checked), checked, quiet, callback, preview)

    def draw_together(
        self,
        requests: Sequence[ImageRequest],
        *,
        callback: StageCallback | None = None,
        **options,
    ) -> list[ImageResult]:
        """Draw images that have seeds of their own as one batch.

        Options as for calling the pipeline; ``seed``, ``num_images_per_prompt`` and ``batch_size``
        mean nothing here. Adds to the model's cache statistics.
        """
        checked = self.options_class(**options)
        self._check_options(checked)
        with tqdm(disable=True) as bar:
            return self._generate(requests, checked, bar, callback)

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

    def calibrate(
        self,
        prompts: str | Sequence[str],
        *,
        quiet: bool = False,
        callback: StageCallback | None = None,
        **options,
    ) -> SimilarityTables:
        """Measure similarities on images of ``prompts`` and merge them into the model's tables.

        Arguments as for calling the pipeline; the images are dropped.
        """
        with self.calibrating():
            for _ in self.stream(prompts, quiet=quiet, callback=callback, **options):
                pass
        return self.transformer.similarity

    def load_similarity(self, path: PathLike) -> None:
        """Give the model the similarity data of a file.

        Raises:
            ValueError: the file is damaged or belongs to another model.
            OSError: the file cannot be read.

        Warns:
            UserWarning: it lacks transitions between this model's stages.
        """
        warn_about_missing(self.transformer.load_similarity_data(path), path)

    @contextlib.contextmanager
    def calibrating(self) -> Iterator[None]:
        """Every generation inside computes everything and is measured."""
        before = self.transformer.calibration
        self.transformer.calibration = True
        try:
            yield
        finally:
            self.transformer.calibration = before

    # --- one run ------------------------------------------------------------------------------

    def _plan(self, prompts: str | Sequence[str], options: GenerationOptions) -> list[ImageRequest]:
        self._check_options(options)
        return plan_images(prompts, options)

    def _check_options(self, options: GenerationOptions) -> None:
        expected = self.transformer.context_token
        if options.max_token_length not in (None, expected):
            raise ValueError(
                f"max_token_length is {options.max_token_length}, but this transformer was trained "
                f"with {expected} text positions and accepts only that"
            )
        check_chunks(options.num_maskgit_iters, self.model.patch_nums)

    def _num_stages(self, options: GenerationOptions) -> int:
        return len(self.transformer.patch_nums) - (options.num_maskgit_iters == 0)

    def _conditions(
        self, batch: Sequence[ImageRequest], options: GenerationOptions
    ) -> dict[str, Any]:
        """Arguments of ``generate_feature_map`` that only this kind of model has."""
        features, position_ids, mask = encode_unique(
            [request.prompt for request in batch],
            self.text_model,
            self.text_tokenizer,
            self.transformer.context_token,
            self.system_prompt if options.use_llm_system_prompt else "",
        )
        return {
            "label_B": features,
            "context_position_ids": position_ids,
            "context_mask": mask,
            "num_maskgit_iters": options.num_maskgit_iters,
        }

    def _run(
        self,
        requests: list[ImageRequest],
        options: GenerationOptions,
        quiet: bool,
        callback: StageCallback | None,
        preview: PreviewCallback | None,
    ) -> Iterator[list[ImageResult]]:
        self.transformer.reset_cache_statistics()
        pieces = list(batches(requests, options.batch_size))
        stages = self._num_stages(options)
        hidden = True if quiet else None  # None hides the bar where there is no terminal
        with tqdm(total=len(pieces) * stages, unit="stage", disable=hidden) as bar:
            for batch in pieces:
                bar.set_description(f"image {batch[-1].index + 1}/{len(requests)}")
                yield self._generate(batch, options, bar, callback, preview)

    def _generate(
        self,
        batch: Sequence[ImageRequest],
        options: GenerationOptions,
        bar: tqdm,
        callback: StageCallback | None,
        preview: PreviewCallback | None = None,
    ) -> list[ImageResult]:
        recipe = recipe_of(self, options)
        calls_before = self.transformer.cache_statistics.calls()
        timeline = Timeline(self.device)
        conditions = self._conditions(batch, options)
        timeline.mark(TEXT_PART)

        def on_stage(si: int, num_stages: int) -> None:
            bar.update()
            if callback is not None:
                callback(si, num_stages)

        stages = self._num_stages(options)

        def on_feature_map(si: int, f_hat: torch.Tensor) -> None:
            if si < stages - 1:
                images = to_pil(self.decode(f_hat))
                preview(StagePreview(si, stages, batch, images))
                timeline.mark(PREVIEW_PART)

        f_hat = self.model.generate_feature_map(
            len(batch),
            **conditions,
            cfg=options.cfg_scale,
            top_p=options.top_p,
            more_smooth=options.more_smooth,
            generator=[self._generator(request.seed) for request in batch],
            callback=on_stage,
            timeline=timeline,
            steps=Engine(self.transformer, self.compile) if self.use_engine else None,
            on_feature_map=on_feature_map if preview else None,
            wait=True,
        )
        images = to_pil(self.decode(f_hat))
        timeline.mark(DECODE_PART)
        seconds = part_seconds(timeline, len(self.transformer.patch_nums))
        calls = calls_between(calls_before, self.transformer.cache_statistics.calls())
        return image_results(batch, images, seconds, calls, recipe)

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

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(seed)
