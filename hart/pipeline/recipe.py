"""What a picture was drawn with: written into its file, and enough to draw it again."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from hart.modules.networks.caching.cache_options import OPTION_NAMES
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.plan_format import any_config_from_dict
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline.options import ImageRequest, SamplingChoices
from hart.version import __version__

if TYPE_CHECKING:
    from hart.pipeline.base import Pipeline

MAX_BATCH = 1024
"""Most images of a batch that are drawn again from one file."""

# Fields of the options that are said otherwise, by the images of the batch or by the instruction.
_SAID_OTHERWISE = ("seed", "num_images_per_prompt", "batch_size", "use_llm_system_prompt")
_EXECUTION = ("use_engine", "compile", "tiled_decode")


def recipe_of(pipeline: Pipeline, options: SamplingChoices) -> dict[str, str]:
    """Everything that the next batch depends on beside the weights and its requests, as texts.

    The cache configuration is what will really be done: that of no caching if caching is off. The
    similarity table is there if it takes part in decisions.
    """
    model = pipeline.transformer
    active = model.use_cache and not model.calibration
    config = model.cache_config if active else CacheConfig()
    recipe: dict[str, Any] = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name not in _SAID_OTHERWISE and getattr(options, field.name) is not None
    }
    recipe["cache_config"] = config.to_dict()
    if config.caches_anything:
        table = {site: model.similarity.site(site) for site in SITES}
        recipe["similarity"] = {**table, "assumed": model.similarity.assumed}
    recipe |= {name: getattr(pipeline, name) for name in _EXECUTION}
    texts = {name: json.dumps(value) for name, value in recipe.items()}
    if pipeline.text_model is not None:
        used = getattr(options, "use_llm_system_prompt", False)
        texts["instruction"] = pipeline.system_prompt if used else ""
    return {**texts, **_place(pipeline), "Software": f"hart {__version__}"}


def _place(pipeline: Pipeline) -> dict[str, str]:
    """What rounding depends on beside the batch."""
    return {
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": pipeline.device.type,
        "threads": str(torch.get_num_threads()),
    }


def batch_texts(batch: Sequence[ImageRequest], request: ImageRequest) -> dict[str, str]:
    """The image's own texts, and the whole batch if it was not drawn alone."""
    name = "prompt" if isinstance(request.prompt, str) else "class"
    texts = {name: str(request.prompt), "seed": str(request.seed)}
    if len(batch) > 1:
        texts["batch"] = json.dumps([[other.prompt, other.seed] for other in batch])
        texts["batch_position"] = str(list(batch).index(request))
    return texts


class _Texts:
    """Texts of a picture's file, which may be anybody's."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def text(self, name: str) -> str:
        if name not in self.texts:
            raise ValueError(f"the picture does not say its {name}; it cannot be drawn again")
        return str(self.texts[name])

    def value(self, name: str) -> Any:
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} in the picture cannot be read ({error})") from error


def redraw(pipeline: Pipeline, metadata: Mapping[str, str]) -> Any:
    """See :meth:`HARTPipeline.redraw`."""
    texts = _Texts(metadata)
    kind = "prompt" if pipeline.text_model is not None else "class"
    condition = texts.text("prompt") if kind == "prompt" else texts.value("class")
    batch, position = _requests(texts, condition)
    options = _options(pipeline, texts)
    here = _place(pipeline)
    other = [f"{name} {texts.text(name)}" for name in here if texts.text(name) != here[name]]
    if other:
        warnings.warn(
            f"the picture was drawn with {', '.join(other)}, which rounds otherwise", stacklevel=3
        )
    with _as_drawn(pipeline, texts):
        return pipeline.draw_together(batch, **options)[position].image


def _requests(texts: _Texts, condition: str | int) -> tuple[list[ImageRequest], int]:
    own = ImageRequest(0, condition, texts.value("seed"))
    if "batch" not in texts.texts:
        return [own], 0
    entries, position = texts.value("batch"), texts.value("batch_position")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_BATCH:
        raise ValueError(f"batch in the picture must list 1 to {MAX_BATCH} images")
    try:
        batch = [ImageRequest(i, prompt, seed) for i, (prompt, seed) in enumerate(entries)]
        drawn = batch[position]
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"batch in the picture cannot be read ({error})") from error
    if any(type(other.prompt) is not type(own.prompt) for other in batch):
        raise ValueError("batch in the picture lists images of another kind")
    if (drawn.prompt, drawn.seed) != (own.prompt, own.seed):
        raise ValueError("batch_position in the picture names another image")
    return batch, position


def _options(pipeline: Pipeline, texts: _Texts) -> dict[str, Any]:
    names = [field.name for field in fields(pipeline.options_class)]
    given = {name: texts.value(name) for name in names if name in texts.texts and name != "seed"}
    if pipeline.text_model is not None:
        given["use_llm_system_prompt"] = bool(texts.text("instruction"))
    return given


@contextlib.contextmanager
def _as_drawn(pipeline: Pipeline, texts: _Texts) -> Iterator[None]:
    """The pipeline as it was then, for a moment."""
    model = pipeline.transformer
    config = any_config_from_dict(texts.value("cache_config"))
    similarity = model.similarity
    if config.caches_anything:
        similarity = SimilarityTables(**texts.value("similarity"))
        similarity.validate(model.depth, model.schedule)
    before, instruction = model.cache_config, {}
    if pipeline.text_model is not None:
        instruction = {"system_prompt": texts.text("instruction")}
    execution = {name: texts.value(name) for name in _EXECUTION}
    fields_before = {name: getattr(model.config, name) for name in OPTION_NAMES.values()}
    with (
        _temporarily(model.config, **fields_before),  # the configuration writes to them
        _temporarily(model, similarity=similarity, use_cache=True, calibration=False),
        _temporarily(pipeline, **execution, **instruction),
    ):
        try:
            model.set_cache_config(config)
            yield
        finally:
            model.set_cache_config(before)


@contextlib.contextmanager
def _temporarily(owner: object, **values: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
