"""A pipeline as the drawing queue uses it, and its pictures as a client gets them."""

from __future__ import annotations

import base64
import json
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from hart.modules.networks.caching.presets import CACHE_PRESETS, NO_CACHE, preset_config
from hart.pipeline import HARTPipeline, ImageResult
from hart.pipeline.options import ImageRequest
from hart.server import DEFAULT_MAX_IMAGES, DEFAULT_MAX_PROMPT
from hart.server.requests import Served, Settings
from hart.utils.images import png_bytes

# Texts of a picture that name the other images of its batch, which are other people's.
_OF_OTHERS = ("batch", "batch_position")


def served_model(
    pipeline: HARTPipeline,
    name: str,
    max_images: int = DEFAULT_MAX_IMAGES,
    max_prompt: int = DEFAULT_MAX_PROMPT,
) -> Served:
    """What a pipeline can be asked for; how it caches now is how it caches unasked."""
    model = pipeline.transformer
    (autoencoder,) = model.vae_proxy
    return Served(
        name=name,
        size=model.patch_nums[-1] * autoencoder.downsample,
        config=model.cache_config if model.use_cache else NO_CACHE,
        presets={preset: preset_config(preset, model.patch_nums) for preset in CACHE_PRESETS},
        levels=pipeline.quality_configs(),
        max_images=max_images,
        max_prompt=max_prompt,
    )


class PipelineDrawing:
    """Draws batches with a pipeline that nobody else uses."""

    def __init__(self, pipeline: HARTPipeline) -> None:
        self._pipeline = pipeline

    def __call__(
        self, settings: Settings, images: Sequence[ImageRequest], check: Callable[[], None]
    ) -> list[ImageResult]:
        model = self._pipeline.transformer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about the presets, not about this request
            model.set_cache_config(settings.config)
        model.use_cache = True
        model.reset_cache_statistics()
        return self._pipeline.draw_together(
            images, callback=lambda *_: check(), cfg_scale=settings.cfg_scale
        )


def answer(results: Sequence[ImageResult]) -> bytes:
    """The JSON of finished pictures. A picture's file says how it was drawn."""
    return json.dumps(
        {"created": int(time.time()), "data": [_entry(each) for each in results]}
    ).encode()


def _entry(result: ImageResult) -> dict[str, Any]:
    own = {key: text for key, text in result.metadata.items() if key not in _OF_OTHERS}
    picture = base64.b64encode(png_bytes(result.image, own)).decode("ascii")
    return {"b64_json": picture, "url": None, "revised_prompt": None, "seed": result.seed}
