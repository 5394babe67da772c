"""What a run is asked for."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from hart.modules.networks.caching.numbers import integer, plain, plain_list
from hart.modules.networks.caching.validation import truth_value
from hart.utils.options import (
    Either,
    Kind,
    check_options,
    document_options,
    integer_from,
    option,
)

DEFAULT_BATCH_SIZE = 4
DEFAULT_SEED = 1
"""Of the first image, here, at the command line and on the page; HART's own scripts' default. As
everywhere nothing is cached unless somebody asks for it or the checkpoint's configuration does."""

SEED_LIMIT = 2**63
_RANDOM_SEEDS = 2**32  # short enough to be typed again
_TOO_LARGE = 2.0**1000  # for a float; comparing does not convert integers


def _seed(value: object, name: str) -> int:
    seed = integer(name, value, 0)
    if seed >= SEED_LIMIT:
        raise ValueError(f"{name} must be below 2**63, got {seed}")
    return seed


def _seeds(value: Any, name: str) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    value = plain(value)
    if hasattr(value, "__len__") and not isinstance(value, str | bytes | Mapping):
        return tuple(_seed(each, f"{name}[{i}]") for i, each in enumerate(value))
    return _seed(value, name)


def _whole(least: int, may_be_none: bool = False) -> Kind:
    def check(value: object, name: str) -> int | None:
        return None if may_be_none and value is None else integer(name, value, least)

    parser = {"type": integer_from(least), "metavar": "NUMBER"}
    return Kind(check, f"a whole number from {least}", parser)


def _number(most: float) -> Kind:
    limit = "from 0" if math.isinf(most) else f"within [0, {most:g}]"

    def check(value: Any, name: str) -> float:
        value = plain(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 <= value <= most and value < _TOO_LARGE):  # also refuses NaN
            raise ValueError(f"{name} must be a number {limit}, got {value!r}")
        return value

    return Kind(check, f"a number {limit}", {"type": float, "metavar": "NUMBER"})


_FLAG = Kind(partial(truth_value, error=ValueError), "true or false", {"action": Either})
_SEED = Kind(_seeds, "a whole number below 2**63", {"type": integer_from(0), "metavar": "NUMBER"})


@document_options
@dataclass(frozen=True)
class SamplingChoices:
    """How images are drawn, whatever they are drawn from.

    ``seed`` may also be a list with one for every image, or None: a random one, which the results
    tell. On a CPU torch takes the lowest 32 bits of a seed. ``batch_size`` None means at most 4.

    Attributes:
        <options>

    Raises:
        ValueError: a value is not allowed.
    """

    num_images_per_prompt: int = option(
        1, _whole(1), "images of each prompt or class", "--num_samples"
    )
    seed: int | Sequence[int] | None = option(
        DEFAULT_SEED, _SEED, "image i of the run draws with seed + i", "--seed"
    )
    cfg_scale: float = option(4.5, _number(math.inf), "guidance scale", "--cfg_scale", "--cfg")
    top_p: float = option(0.0, _number(1), "nucleus mass, 0 means off", "--top_p")
    more_smooth: bool = option(
        True,
        _FLAG,
        "feed back soft mixtures of tokens instead of drawn ones",
        "--more_smooth",
        "--no-more_smooth",
    )
    batch_size: int | None = option(
        None,
        _whole(1, may_be_none=True),
        "images drawn at the same time; another number changes rounding, and an adaptive threshold "
        "is one per batch",
        "--batch_size",
        flag_default=DEFAULT_BATCH_SIZE,
    )

    def __post_init__(self) -> None:
        check_options(self)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        return asdict(self)


@document_options
@dataclass(frozen=True)
class GenerationOptions(SamplingChoices):
    """How HART draws. The sampling defaults are those of HART's own scripts.

    The last stage is predicted in ``num_maskgit_iters`` chunks, at most as many as it has tokens;
    0 leaves it out.

    Attributes:
        <options>

    Raises:
        ValueError: a value is not allowed.
    """

    num_maskgit_iters: int = option(1, _whole(0), "chunks in which the last stage is predicted")
    max_token_length: int | None = option(
        None,
        _whole(1, may_be_none=True),
        "text positions; only the model's own number is accepted",
        "--max_token_length",
    )
    use_llm_system_prompt: bool = option(
        True,
        _FLAG,
        "put an instruction before every prompt",
        "--use_llm_system_prompt",
        "--no-use_llm_system_prompt",
    )


@document_options
@dataclass(frozen=True)
class VARGenerationOptions(SamplingChoices):
    """How VAR draws. The sampling defaults are those of VAR's own notebook.

    Attributes:
        <options>

    Raises:
        ValueError: a value is not allowed.
    """

    cfg_scale: float = 4.0
    top_p: float = 0.95
    more_smooth: bool = False
    top_k: int = option(900, _whole(0), "candidates per token, 0 means all; VAR only", "--top_k")


@dataclass(frozen=True)
class ImageRequest:
    """One image to draw: its place in the run, its prompt or class, and its own seed."""

    index: int
    prompt: str | int
    seed: int

    def __post_init__(self) -> None:
        for name in ("index", "prompt", "seed"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        _seed(self.seed, "seed")


def plan_images(prompts: str | Sequence[str], options: GenerationOptions) -> list[ImageRequest]:
    """Every image of a run in order: all images of the first prompt, then of the second, ...

    Raises:
        ValueError: there is no prompt, or one is empty or not Unicode text, or the number of seeds
            is not that of the images.
        TypeError: a prompt is not a string.
    """
    several = isinstance(prompts, Iterable) and not isinstance(prompts, str | bytes | Mapping)
    listed: list[Any] = list(prompts) if several else [prompts]
    if not listed:
        raise ValueError("prompts is empty; at least one prompt is needed")
    for index, prompt in enumerate(listed):
        if not isinstance(prompt, str):
            raise TypeError(f"prompts[{index}] must be a string, got {type(prompt).__name__}")
        if not prompt.strip():
            raise ValueError(f"prompts[{index}] is empty; every prompt needs some text")
        if not prompt.isascii():
            _check_text(index, prompt)
    return _requests(listed, options)


def plan_classes(
    classes: int | Sequence[int], num_classes: int, options: VARGenerationOptions
) -> list[ImageRequest]:
    """As :func:`plan_images`, for class indices from 0 to ``num_classes`` - 1.

    Raises:
        ValueError: there is no class, or one is out of range.
        TypeError: a class is not an integer.
    """
    classes = plain_list(classes)
    if not classes:
        raise ValueError("classes is empty; at least one class is needed")
    for index, label in enumerate(classes):
        if isinstance(label, bool) or not isinstance(label, int):
            raise TypeError(f"classes[{index}] must be an integer, got {label!r}")
        if not 0 <= label < num_classes:
            raise ValueError(
                f"classes[{index}] is {label}; this model's classes are 0 to {num_classes - 1}"
            )
    return _requests(classes, options)


def _requests(conditions: Sequence[str | int], options: SamplingChoices) -> list[ImageRequest]:
    repeated = [each for each in conditions for _ in range(options.num_images_per_prompt)]
    seeds = seeds_for(len(repeated), options.seed)
    return [
        ImageRequest(i, condition, seed)
        for i, (condition, seed) in enumerate(zip(repeated, seeds, strict=True))
    ]


def seeds_for(images: int, seed: int | Sequence[int] | None) -> Sequence[int]:
    """The seed of every image of a run.

    Raises:
        ValueError: there is a list of another number of them.
    """
    if seed is None:
        seed = secrets.randbelow(_RANDOM_SEEDS)
    if isinstance(seed, int):
        return range(seed, seed + images)
    if len(seed) != images:
        raise ValueError(f"seed must have one entry per image, {images}; got {len(seed)}")
    return seed


def _check_text(index: int, prompt: str) -> None:
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:  # bytes of a command line that are not UTF-8, for example
        raise ValueError(
            f"prompts[{index}] is not Unicode text: character {error.start} is half of a pair"
        ) from None


def batches(
    requests: Sequence[ImageRequest], batch_size: int | None
) -> Iterator[Sequence[ImageRequest]]:
    """Consecutive pieces of ``requests``, each of at most ``batch_size`` images."""
    size = batch_size or DEFAULT_BATCH_SIZE
    for start in range(0, len(requests), size):
        yield requests[start : start + size]
