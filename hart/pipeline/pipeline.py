"""Prompts in, pictures out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hart.engine import Engine, decode, decode_in_tiles
from hart.modules.models.transformer.generation_state import check_chunks
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline.folders import (
    CheckpointFolders,
    PathLike,
    locate_checkpoint,
    resolve_system_prompt,
    resolve_use_ema,
)
from hart.pipeline.loading import (
    load_bundled_similarity,
    load_similarity,
    load_transformer,
    resolve_device,
)
from hart.pipeline.options import GenerationOptions, ImageRequest, batches, plan_images
from hart.pipeline.results import (
    DECODE_PART,
    PREVIEW_PART,
    TEXT_PART,
    BatchSeconds,
    HARTPipelineOutput,
    ImageResult,
    StagePreview,
    calls_between,
    image_results,
)
from hart.pipeline.text import encode_unique, load_text_encoder
from hart.utils.constants import llm_system_prompt
from hart.utils.device import resolve_dtype
from hart.utils.images import to_pil
from hart.utils.timing import Timeline

StageCallback = Callable[[int, int], None]
PreviewCallback = Callable[[StagePreview], None]


class HARTPipeline:
    """Text encoder, transformer with feature caching, and image decoder as one callable.

    Args:
        model: the transformer; its autoencoder decodes the images.
        text_model: the text encoder, on the transformer's device.
        text_tokenizer: the text encoder's tokenizer.
        system_prompt: instruction put before every prompt; an empty one means none.
        folders: where the parts came from, if they were loaded.

    Attributes:
        use_engine: whether the engine executes the model, which is faster and the same up to
            rounding; otherwise the model's own, plain path does.
        compile: let the engine compile what the blocks do token by token; the first image of every
            batch size waits for it.
        tiled_decode: decode large feature maps in overlapping tiles, which needs less memory and
            changes the images slightly; see ``decode_in_tiles``.
        similarity_path: the file that the model's similarity data were read from, if any.
    """

    options_class = GenerationOptions

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
        self.similarity_path: Path | None = None

    @classmethod
    def from_pretrained(
        cls,
        model_path: PathLike,
        text_model_path: PathLike | None = None,
        tokenizer_path: PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        cache: str | CacheConfig | None = None,
        use_ema: bool | None = None,
        system_prompt: str | None = None,
    ) -> HARTPipeline:
        """Load a checkpoint, with the ``cache_similarity.json`` in it if there is one.

        Args:
            model_path: the checkpoint's root or its ``llm`` folder, or a name on the Hugging Face
                hub.
            text_model_path: the text encoder; by default ``text_model`` in the root.
            tokenizer_path: the text tokenizer, by default the text encoder's; the folder of an
                image autoencoder is taken as that.
            device: by default CUDA, else MPS, else the CPU.
            dtype: of all weights, see :func:`resolve_dtype`; by default float16 on CUDA and float32
                elsewhere.
            cache: a preset's name or a configuration; None keeps what the checkpoint's config says.
            use_ema: True requires the averaged weights, False ignores them, None uses them if the
                checkpoint has any.
            system_prompt: instruction put before every prompt; by default the checkpoint's
                ``system_prompt.txt``, else the library's own.

        Raises:
            CheckpointError: a part is missing, damaged or of another kind.
            ValueError: unknown device or preset, or a dtype that the device cannot compute in.

        Warns:
            UserWarning: the checkpoint's similarity data cannot be used or lack transitions.
        """
        device = resolve_device(device)
        dtype = resolve_dtype("auto" if dtype is None else dtype, device)
        folders = locate_checkpoint(model_path, text_model_path, tokenizer_path)
        system_prompt = resolve_system_prompt(folders, system_prompt)
        model = load_transformer(folders, resolve_use_ema(folders, use_ema), dtype, device)
        if cache is not None:
            model.set_cache_config(cache)
        text_model, tokenizer = load_text_encoder(folders, model.context_dim, dtype, device)
        pipeline = cls(model, text_model, tokenizer, system_prompt, folders)
        pipeline.similarity_path = load_bundled_similarity(model, folders)
        return pipeline

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

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
        return HARTPipelineOutput(images, results, self.model.get_cache_statistics())

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
        return self.model.similarity

    def load_similarity(self, path: PathLike) -> None:
        """Give the model the similarity data of a file.

        Raises:
            ValueError: the file is damaged or belongs to another model.
            OSError: the file cannot be read.

        Warns:
            UserWarning: it lacks transitions between this model's stages.
        """
        self.similarity_path = load_similarity(self.model, path)

    @contextlib.contextmanager
    def calibrating(self) -> Iterator[None]:
        """Every generation inside computes everything and is measured."""
        before = self.model.calibration
        self.model.calibration = True
        try:
            yield
        finally:
            self.model.calibration = before

    # --- one run ------------------------------------------------------------------------------

    def _plan(self, prompts: str | Sequence[str], options: GenerationOptions) -> list[ImageRequest]:
        self._check_options(options)
        return plan_images(prompts, options)

    def _check_options(self, options: GenerationOptions) -> None:
        expected = self.model.context_token
        if options.max_token_length not in (None, expected):
            raise ValueError(
                f"max_token_length is {options.max_token_length}, but this transformer was trained "
                f"with {expected} text positions and accepts only that"
            )
        check_chunks(options.num_maskgit_iters, self.model.patch_nums)

    def _num_stages(self, options: GenerationOptions) -> int:
        return len(self.model.patch_nums) - (options.num_maskgit_iters == 0)

    def _conditions(
        self, batch: Sequence[ImageRequest], options: GenerationOptions
    ) -> dict[str, Any]:
        """Arguments of ``generate_feature_map`` that only this kind of model has."""
        features, position_ids, mask = encode_unique(
            [request.prompt for request in batch],
            self.text_model,
            self.text_tokenizer,
            self.model.context_token,
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
        self.model.reset_cache_statistics()
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
        calls_before = self.model.cache_statistics.calls()
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
            steps=Engine(self.model, self.compile) if self.use_engine else None,
            on_feature_map=on_feature_map if preview else None,
        )
        images = to_pil(self.decode(f_hat))
        timeline.mark(DECODE_PART)
        seconds = BatchSeconds.of(timeline, len(self.model.patch_nums))
        calls = calls_between(calls_before, self.model.cache_statistics.calls())
        return image_results(batch, images, seconds, calls)

    def decode(self, f_hat: torch.Tensor) -> torch.Tensor:
        """Feature maps (B, Z, P, P) to images (B, 3, H, W) in [0, 1]."""
        if self.tiled_decode:
            return decode_in_tiles(self.model, f_hat)
        return (
            decode(self.model, f_hat) if self.use_engine else self.model.decode_feature_map(f_hat)
        )

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(seed)
