"""What a run is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from hart.modules.networks.caching.numbers import integer, plain, plain_list

DEFAULT_BATCH_SIZE = 4
DEFAULT_SEED = 1
"""Of the first image, here, at the command line and on the page; HART's own scripts' default."""

SEED_LIMIT = 2**63
_TOO_LARGE = 2.0**1000  # for a float; comparing does not convert integers


@dataclass(frozen=True)
class SamplingChoices:
    """How images are drawn, whatever they are drawn from.

    Attributes:
        num_images_per_prompt: images of each prompt or class.
        seed: image ``i`` of a run draws all its random numbers from a generator seeded with
            ``seed + i`` (on a CPU torch takes the lowest 32 bits), whatever is drawn around it.
        cfg_scale: guidance scale.
        top_p: nucleus mass in [0, 1]; 0 means off.
        more_smooth: feed back the soft mixture of codebook rows instead of the drawn ones.
        batch_size: images generated at the same time; None means at most 4. Another size rounds
            otherwise, and an adaptive threshold is the batch's.

    Raises:
        ValueError: a value is not allowed.
    """

    num_images_per_prompt: int = 1
    seed: int = DEFAULT_SEED
    cfg_scale: float = 4.5
    top_p: float = 0.0
    more_smooth: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
            if isinstance(field.default, bool):
                _check_flag(field.name, getattr(self, field.name))
        integer("num_images_per_prompt", self.num_images_per_prompt, 1)
        _check_seed(self.seed)
        if self.batch_size is not None:
            integer("batch_size", self.batch_size, 1)
        _check_number("cfg_scale", self.cfg_scale, math.inf)
        _check_number("top_p", self.top_p, 1)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class GenerationOptions(SamplingChoices):
    """How HART draws. The sampling defaults are those of HART's own scripts.

    Attributes:
        num_maskgit_iters: chunks in which the last stage is predicted, at most as many as it has
            tokens; 0 leaves it out.
        max_token_length: text positions; None means the transformer's ``context_token``, the only
            value that it accepts.
        use_llm_system_prompt: whether an instruction is put before every prompt.

    The others are those of :class:`SamplingChoices`.

    Raises:
        ValueError: a value is not allowed.
    """

    num_maskgit_iters: int = 1
    max_token_length: int | None = None
    use_llm_system_prompt: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("num_maskgit_iters", self.num_maskgit_iters, 0)
        if self.max_token_length is not None:
            integer("max_token_length", self.max_token_length, 1)


@dataclass(frozen=True)
class VARGenerationOptions(SamplingChoices):
    """How VAR draws. The sampling defaults are those of VAR's own notebook.

    Attributes:
        top_k: candidates kept at every stage; 0 means all.

    The others are those of :class:`SamplingChoices`.

    Raises:
        ValueError: a value is not allowed.
    """

    cfg_scale: float = 4.0
    top_p: float = 0.95
    more_smooth: bool = False
    top_k: int = 900

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("top_k", self.top_k, 0)


def _check_seed(seed: object) -> None:
    if integer("seed", seed, 0) >= SEED_LIMIT:
        raise ValueError(f"seed must be below 2**63, got {seed}")


def _check_number(name: str, value: object, most: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value <= most and value < _TOO_LARGE):  # also refuses NaN
        limit = "from 0" if math.isinf(most) else f"within [0, {most}]"
        raise ValueError(f"{name} must be a number {limit}, got {value!r}")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


@dataclass(frozen=True)
class ImageRequest:
    """One image to draw: its place in the run, its prompt or class, and its own seed."""

    index: int
    prompt: str | int
    seed: int

    def __post_init__(self) -> None:
        for name in ("index", "prompt", "seed"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        _check_seed(self.seed)


def plan_images(prompts: str | Sequence[str], options: GenerationOptions) -> list[ImageRequest]:
    """Every image of a run in order: all images of the first prompt, then of the second, ...

    Raises:
        ValueError: there is no prompt, or one is empty or not Unicode text.
        TypeError: a prompt is not a string.
    """
    several = isinstance(prompts, Iterable) and not isinstance(prompts, str | bytes | Mapping)
    prompts = list(prompts) if several else [prompts]
    if not prompts:
        raise ValueError("prompts is empty; at least one prompt is needed")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise TypeError(f"prompts[{index}] must be a string, got {type(prompt).__name__}")
        if not prompt.strip():
            raise ValueError(f"prompts[{index}] is empty; every prompt needs some text")
        if not prompt.isascii():
            _check_text(index, prompt)
    return _requests(prompts, options)


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
    return [ImageRequest(i, condition, options.seed + i) for i, condition in enumerate(repeated)]


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
