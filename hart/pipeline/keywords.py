"""The keywords of a pipeline's calls: its options, under the names that users of diffusers type."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import FunctionType
from typing import Any, TypeVar

import torch

from hart.utils.names import suggestion
from hart.utils.options import option_lines, options_of

Method = TypeVar("Method", bound=Callable[..., Any])

SHOWN = {"cfg_scale": "guidance_scale"}
"""Option -> the name under which it is documented; both are taken."""

PROMPTS = ("prompts", "classes", "class_labels")
"""Other names of the first argument."""

MEANINGLESS = {
    "negative_prompt": "guidance leads away from no text at all, and the model knows nothing else",
    "num_inference_steps": "the checkpoint fixes its stages; a cache preset makes them faster",
    "height": "the checkpoint fixes the size of its pictures",
    "width": "the checkpoint fixes the size of its pictures",
    "latents": "there is no noise to start from; seed or generator decides what is drawn",
    "return_dict": "the pictures are in the attribute images of what is returned",
}
"""Arguments of diffusers' pipelines that nothing here can follow, and why. None is taken."""

SEED_BITS = 32  # as many as a CPU's generator takes


def takes_options(method: Method, options_class: type) -> Method:
    """A copy of a method whose signature and docstring name the options that it takes.

    They take the place of ``**options`` and of ``<options>``.
    """
    assert isinstance(method, FunctionType)
    copy = FunctionType(method.__code__, method.__globals__, method.__name__, method.__defaults__)
    copy.__kwdefaults__, copy.__qualname__ = method.__kwdefaults__, method.__qualname__
    copy.__annotations__ = dict(method.__annotations__)
    lines = option_lines(options_class, SHOWN)
    copy.__doc__ = (method.__doc__ or "").replace("<options>", "\n            ".join(lines))
    own = inspect.signature(method)
    named = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            SHOWN.get(field.name, field.name),
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(options_class, field.name),
            annotation=field.type,
        )
        for field in fields(options_class)
    ]
    copy.__signature__ = own.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
    return copy  # type: ignore[return-value]


def take_prompt(prompt: Any, given: dict[str, Any]) -> Any:
    """The first argument, which may have been given under another name.

    Raises:
        TypeError: it is missing, or given twice.
    """
    found = [prompt] if prompt is not None else []
    found += [given.pop(name) for name in PROMPTS if name in given]
    if len(found) != 1:
        raise TypeError("prompt is given twice" if found else "prompt is missing")
    return found[0]


def take_generator(generator: Any, given: dict[str, Any]) -> None:
    """Put seeds that generators draw in the place of the generators.

    One generator draws the seed of the first image, several draw one each. So pictures are the same
    on every device, and say a seed with which they can be drawn again.

    Raises:
        TypeError: there is a seed too, or something is no ``torch.Generator``.
    """
    if generator is None:
        return
    if "seed" in given:
        raise TypeError("seed and generator exclude each other")
    several = isinstance(generator, Sequence)
    given["seed"] = [_drawn_seed(each) for each in generator] if several else _drawn_seed(generator)


def _drawn_seed(generator: object) -> int:
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator or a list of them, got {generator!r}; "
            "seed takes numbers"
        )
    high = 1 << SEED_BITS
    return int(torch.randint(high, (), generator=generator, device=generator.device))


def known_options(options_class: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call by field.

    Raises:
        TypeError: one is unknown, or given under two names.
    """
    names = {SHOWN.get(name, name): name for name in options_of(options_class)}
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in MEANINGLESS and value is None:
            continue
        field = names.get(name, name)
        if field not in names.values():
            raise TypeError(_unknown(name, names))
        if field in found:
            raise TypeError(f"{field} is given twice, also as {SHOWN[field]}")
        found[field] = value
    return found


def _unknown(name: str, names: Mapping[str, str]) -> str:
    if name in MEANINGLESS:
        return f"{name} has no meaning here: {MEANINGLESS[name]}"
    known = [*names, *CALL_KEYWORDS]
    return f"unknown argument {name!r}{suggestion(name, known)}; known are {', '.join(known)}"


CALL_KEYWORDS = (
    *("prompt", "generator", "output_type", "callback_on_step_end"),
    *("callback_on_step_end_tensor_inputs", "callback", "preview", "quiet"),
)
"""What a call takes beside options."""
