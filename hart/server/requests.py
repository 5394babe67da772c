"""What a client asks for: the JSON of ``POST /v1/images/generations``, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline import GenerationOptions
from hart.pipeline.options import ImageRequest, seeds_for
from hart.server import DEFAULT_MAX_IMAGES, DEFAULT_MAX_PROMPT
from hart.server.errors import ApiError
from hart.utils.errors import shown
from hart.utils.fields import Choice, Field, Number, Text, Whole, check_field
from hart.utils.names import nearest

MAX_GUIDANCE = 30.0
_SEED = Whole(0, 2**53 - 1)  # above it JSON's numbers have gaps

# What OpenAI's clients may ask for where there is only one thing to have.
_FIXED: dict[str, tuple[Any, ...]] = {
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "stream": (False,),
    "partial_images": (0,),
    "negative_prompt": ("",),
}
_IGNORED = ("user", "safety_identifier")


@dataclass(frozen=True)
class Served:
    """What the server draws with, and how much of it one request may have.

    Attributes:
        name: what clients call the model.
        size: width and height of its pictures, in pixels.
        config: how it caches unless a request says otherwise.
        presets, levels: how it caches by ``cache_preset`` and by ``quality``.
        max_images, max_prompt: pictures of a request, and characters of its prompt.
    """

    name: str
    size: int
    config: CacheConfig
    presets: Mapping[str, CacheConfig] = field(default_factory=dict)
    levels: Mapping[str, CacheConfig] = field(default_factory=dict)
    max_images: int = DEFAULT_MAX_IMAGES
    max_prompt: int = DEFAULT_MAX_PROMPT


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn; those that share them can be drawn together."""

    config: CacheConfig
    cfg_scale: float = GenerationOptions.cfg_scale


@dataclass(frozen=True)
class ImagesRequest:
    """Pictures of one prompt: image i draws with the request's seed + i."""

    images: tuple[ImageRequest, ...]
    settings: Settings


@dataclass(frozen=True)
class _Prompt:
    limit: int

    def allows(self, value: object) -> bool:
        if not isinstance(value, str) or not value.strip() or len(value) > self.limit:
            return False
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)

    def __str__(self) -> str:
        return f"text of 1 to {self.limit} characters"


@dataclass(frozen=True)
class _OneOf:
    values: tuple[Any, ...]

    def allows(self, value: object) -> bool:
        return any(type(value) is type(each) and value == each for each in self.values)

    def __str__(self) -> str:
        return " or ".join(map(json.dumps, self.values))


def read_request(body: bytes, served: Served) -> ImagesRequest:
    """The request in a body.

    Fields that are null count as left out, as OpenAI has it.

    Raises:
        ApiError: it is not JSON, has an unknown field, or a value that is not allowed; 404 for
            another model, else 400.
    """
    given = _fields(body)
    allowed = allowed_fields(served)
    for name, value in given.items():
        if name not in allowed:
            raise _unknown(name, allowed)
        _check(name, value, allowed[name])
    if "prompt" not in given:
        raise ApiError(400, "prompt is missing", param="prompt", code="missing_required_parameter")
    if given.get("model", served.name) != served.name:
        raise unknown_model(given["model"], served)
    seeds = seeds_for(given.get("n", 1), given.get("seed"))
    images = (ImageRequest(i, given["prompt"], seed) for i, seed in enumerate(seeds))
    scale = float(given.get("guidance_scale", GenerationOptions.cfg_scale))
    return ImagesRequest(tuple(images), Settings(_config(given, served), scale))


def unknown_model(name: object, served: Served) -> ApiError:
    """The answer to a request for a model that is not here."""
    text = f"the model {shown(name)} does not exist; this server has {served.name!r}"
    return ApiError(404, text, param="model", code="model_not_found")


def _fields(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the request's body is not JSON", code="invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the request's body is not a JSON object", code="invalid_json")
    return {name: value for name, value in content.items() if value is not None}


def allowed_fields(served: Served) -> dict[str, Field]:
    """What every field of a request may hold."""
    return {
        "prompt": _Prompt(served.max_prompt),
        "model": Text(1, 4096),
        "n": Whole(1, served.max_images),
        "size": _OneOf(("auto", f"{served.size}x{served.size}")),
        "quality": Choice(("auto", *served.levels)),
        "seed": _SEED,
        "guidance_scale": Number(0, MAX_GUIDANCE),
        "cache_preset": Choice(tuple(served.presets)),
        **{name: _OneOf(values) for name, values in _FIXED.items()},
        **dict.fromkeys(_IGNORED, Text()),
    }


def _check(name: str, value: object, kind: Field) -> None:
    if name == "negative_prompt" and value != "":
        raise ApiError(400, "negative_prompt: HART was not trained with any", param=name)
    try:
        check_field(name, value, kind)
    except ValueError as error:
        raise ApiError(400, str(error), param=name, code="invalid_value") from None


def _unknown(name: str, allowed: Mapping[str, Field]) -> ApiError:
    near = nearest(name, allowed)
    hint = f"did you mean {near}?" if near else f"known are {', '.join(allowed)}"
    text = f"unknown field {shown(name)}; {hint}"
    return ApiError(400, text, param=name[:100], code="unknown_parameter")


def _config(given: Mapping[str, Any], served: Served) -> CacheConfig:
    """How the pictures are cached: by level, by preset, or as the server does it."""
    level, preset = given.get("quality", "auto"), given.get("cache_preset")
    if level == "auto":
        return served.config if preset is None else served.presets[preset]
    if preset is not None:
        raise ApiError(400, "quality and cache_preset exclude each other", param="cache_preset")
    return served.levels[level]
