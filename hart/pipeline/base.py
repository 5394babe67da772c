"""What the pipelines of HART and VAR share: requests in, pictures out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL.Image import Image

from hart.engine import EngineDecoder
from hart.modules.models.transformer.feature_caching_mixin import warn_about_missing
from hart.modules.models.transformer.generation_state import GenerationSteps, StageCallback
from hart.modules.models.transformer.wrappers import innermost
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.statistics import CacheStatistics
from hart.pipeline.by_plan import DrawsByPlan
from hart.pipeline.caching import CachingNames
from hart.pipeline.drawing import BatchDrawing, Onlooker, PreviewCallback, StepCallback
from hart.pipeline.folders import PathLike
from hart.pipeline.keywords import known_options, take_generator, take_prompt
from hart.pipeline.loading import DTYPE_NAMES, convert_weights, resolve_device, text_dtype
from hart.pipeline.options import ImageRequest, SamplingChoices, batches
from hart.pipeline.recipe import redraw
from hart.pipeline.results import HARTPipelineOutput, ImageResult, together
from hart.utils.device import resolve_dtype
from hart.utils.images import png_texts
from hart.utils.progress import progress_bar

if TYPE_CHECKING:
    from typing_extensions import Self


class Pipeline(CachingNames, DrawsByPlan):
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
            rounding; otherwise its own steps are taken.
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
        self._encodes_on: torch.device | None = None  # where the text encoder is only to encode
        self._interrupt = False
        self._bar_options: dict[str, Any] = {}

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
    def vae(self) -> Any:
        """The image autoencoder, which belongs to the transformer."""
        return self.transformer.vae_proxy[0]

    @property
    def components(self) -> dict[str, Any]:
        """What the class is made of, by the names of its arguments: ``type(p)(**p.components)``."""
        return {"model": self.model}

    def to(self, *place: Any, device: Any = None, dtype: Any = None) -> Self:
        """Move all parts to a device, to another number format, or both; returns the pipeline.

        Args:
            place: a device, a dtype or both in any order, as in ``torch``: ``to("cuda", "bf16")``.
            device, dtype: the same by name, see :meth:`from_pretrained`.

        Raises:
            ValueError: unknown device or dtype, or one that cannot compute in the other.
        """
        for each in place:
            if isinstance(each, torch.dtype) or each in DTYPE_NAMES:
                dtype = each
            else:
                device = each
        device = self.device if device is None else resolve_device(device)
        dtype = resolve_dtype(self.dtype if dtype is None else dtype, device)
        self.transformer.to(device=device, dtype=dtype)  # its autoencoder goes with it
        if self.text_model is not None:
            if self._encodes_on is None:
                self.text_model.to(device)
            else:
                self._encodes_on = device
            convert_weights(self.text_model, text_dtype(dtype, device))
        return self

    @property
    def device(self) -> torch.device:
        """Where the transformer computes."""
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def __call__(self, prompt: Any = None, **arguments: Any) -> HARTPipelineOutput:
        """Draw images; arguments as for :meth:`stream`."""
        counted = CacheStatistics(self.transformer.transformer_shape)
        stream = self.stream(prompt, statistics=counted, **arguments)
        results = [result for batch in stream for result in batch]
        images = together([result.image for result in results])
        return HARTPipelineOutput(images, results, self.transformer.get_cache_statistics(counted))

    def stream(
        self,
        prompt: Any = None,
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = (),
        callback: StageCallback | None = None,
        preview: PreviewCallback | None = None,
        statistics: CacheStatistics | None = None,
        quiet: bool = False,
        **options: Any,
    ) -> Iterator[list[ImageResult]]:
        """Draw images; yields every batch of them as soon as it is finished.

        The arguments are checked at once. With the first batch the model's cache statistics become
        those of this run; a run that is not finished yet goes on with its own.

        Args:
            prompt: one prompt or class, or several.
            generator: in the place of ``seed`` something that seeds are drawn from: of the first
                image, or a list with one for every image.
            output_type: "pil", "np" or "pt": see :func:`hart.utils.images.in_form`.
            callback_on_step_end: called after every stage with the pipeline, the stage's index, its
                number of tokens, and the tensors named by ``callback_on_step_end_tensor_inputs``
                ("f_hat", the feature map (B, Z, P, P)). What it returns is not looked at. Once it
                or anybody sets ``pipeline._interrupt`` nothing more is drawn: the images are
                decoded as they are, and their files do not say how to draw them again.
            callback: called after every stage with its index and the number of stages.
            preview: sees the decoded pictures after every stage but the last, whose pictures are
                the results; its decoding is in none of the results' times.
            statistics: where the run counts; new ones by default.
            quiet: no progress bar, nor the line each minute that is in its place in a log.
            <options>

        Raises:
            ValueError: no prompts, an empty prompt, or an option that is not allowed.
            TypeError: an argument is unknown, or given twice.

        Warns:
            UserWarning: for a prompt that is cut to the text context.
        """
        prompt = take_prompt(prompt, options)
        take_generator(generator, options)
        checked = self._checked(options)
        onlooker = Onlooker(
            callback, preview, callback_on_step_end, callback_on_step_end_tensor_inputs, output_type
        )
        return self._run(self._plan(prompt, checked), checked, quiet, onlooker, statistics)

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
        return self._generate(requests, self._checked(options), Onlooker(callback))

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

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of ``tqdm`` for the progress bar, such as ``disable=True``."""
        self._bar_options = options

    @property
    def decoder_copy_bytes(self) -> int:
        """Memory of the engine's copy of the image decoder; 0 before it has decoded."""
        return self._decoder.size_bytes

    # --- similarity data ----------------------------------------------------------------------

    def calibrate(self, prompt: Any = None, **arguments: Any) -> SimilarityTables:
        """Measure similarities on images of prompts and merge them into the model's tables.

        Arguments as for :meth:`stream`; the images are dropped.
        """
        with self.calibrating():
            for _ in self.stream(prompt, **arguments):
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

    def __repr__(self) -> str:
        model = self.transformer
        source = "" if self.folders is None else f"{self.folders.llm}, "
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        cache = model.cache_config if model.use_cache else "caching switched off"
        return (
            f"{type(self).__name__}({source}{millions:.3g} million weights, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}, {cache})"
        )

    # --- what a kind of model has of its own --------------------------------------------------

    def _checked(self, options: Mapping[str, Any]) -> Any:
        """Options by name, checked against the model."""
        return self.options_class(**known_options(self.options_class, options))

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
        onlooker: Onlooker,
        statistics: CacheStatistics | None,
    ) -> Iterator[list[ImageResult]]:
        self._interrupt = False
        transformer = self.transformer
        counted = statistics or CacheStatistics(transformer.transformer_shape)
        transformer.cache_statistics = counted
        pieces = list(batches(requests, options.batch_size))
        total = len(pieces) * self._num_stages(options)
        with progress_bar(total, "stage", quiet, **self._bar_options) as bar:
            for batch in pieces:
                bar.set_description(f"image {batch[-1].index + 1}/{len(requests)}")
                yield self._generate(batch, options, onlooker.also(bar.update), counted)
                if self._interrupt:
                    return

    def _generate(
        self,
        batch: Sequence[ImageRequest],
        options: SamplingChoices,
        onlooker: Onlooker,
        statistics: CacheStatistics | None = None,
    ) -> list[ImageResult]:
        return BatchDrawing(self, batch, options, onlooker, statistics).draw()

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
