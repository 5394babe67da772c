"""What the values of cache options may be; every message names the field."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping
from numbers import Real

from hart.utils.options import Either, Kind

from .numbers import plain
from .stages import as_integer

PruneStages = tuple[tuple[int, float], ...]
"""Token count of a stage and the share of its tokens that is left out, ascending."""

MAX_STAGE = 1 << 40
"""Token count that is believed to be some model's."""


def stage_length(value: object, name: str) -> int:
    """``value`` as the token count of a square map."""
    length = as_integer(value, name)
    if length < 1 or math.isqrt(length) ** 2 != length:
        raise ValueError(
            f"{name} must contain token counts of square maps (1, 4, 9, ...), got {length}"
        )
    if length > MAX_STAGE:
        raise ValueError(f"{name} must contain token counts up to {MAX_STAGE}, got more")
    return length


def _entries(values: object, name: str, what: str) -> Iterable:
    if values is None:
        return ()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a collection of {what}, got {values!r}")
    return values


def stage_tuple(stages: object, name: str) -> tuple[int, ...]:
    """Token counts in ascending order without duplicates; None means none."""
    return tuple(sorted({stage_length(n, name) for n in _entries(stages, name, "token counts")}))


def layer_tuple(layers: object, name: str) -> tuple[int, ...]:
    """Indices of blocks in ascending order without duplicates; None means none."""
    indices = sorted({as_integer(i, name) for i in _entries(layers, name, "block indices")})
    if indices and indices[0] < 0:
        raise ValueError(f"{name} must contain block indices from 0 on, got {indices[0]}")
    return tuple(indices)


def optional_stage(value: object, name: str) -> int | None:
    """None, or the token count of a square map."""
    return None if value is None else stage_length(value, name)


def unit_interval(value: object, name: str) -> float:
    """``value`` as a float within [0, 1]."""
    number = _number(value, name)
    if not 0.0 <= number <= 1.0:  # also refuses NaN, which compares false
        raise ValueError(f"{name} must be within [0, 1], got {value}")
    return number


def prune_ratio(value: object, name: str) -> float:
    """``value`` as a float within [0, 1): something must be left."""
    ratio = _number(value, name)
    if not 0.0 <= ratio < 1.0:
        raise ValueError(
            f"{name} must map stages to the share of tokens left out, at least 0 and below 1, "
            f"got {value}"
        )
    return ratio


def prune_pairs(stages: object, name: str) -> PruneStages:
    """Stages with ratios, from a mapping or from pairs, in ascending order; None means none.

    Token counts may be texts of digits, which is what JSON makes of them.
    """
    if stages is None:
        return ()
    if isinstance(stages, Mapping):
        stages = stages.items()
    if isinstance(stages, str | bytes) or not isinstance(stages, Iterable):
        raise TypeError(f"{name} must map token counts to ratios, got {stages!r}")
    ratios: dict[int, float] = {}
    for pair in stages:
        if isinstance(pair, str | bytes) or not isinstance(pair, Iterable):
            raise TypeError(f"{name} must map token counts to ratios, got {pair!r}")
        items = tuple(pair)
        if len(items) != 2:
            raise ValueError(f"{name} must hold pairs of a token count and a ratio, got {items!r}")
        length = stage_length(_digits(items[0]), name)
        ratio = prune_ratio(items[1], name)
        if ratios.setdefault(length, ratio) != ratio:
            raise ValueError(f"{name} has two ratios for stage {length}: {ratios[length]}, {ratio}")
    return tuple(sorted(ratios.items()))


def truth_value(value: object, name: str, error: type[Exception] = TypeError) -> bool:
    """``value`` as True or False; a number is neither."""
    value = plain(value)
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, got {value!r}")
    return value


def choice(*names: str) -> Kind:
    """One of some names."""
    text = f"one of {', '.join(names)}"

    def check(value: object, name: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{name} must be {text}; got {value!r}")
        return value

    return Kind(check, text, {"choices": names})


def _parse_prune_stage(text: str) -> tuple[int, float]:
    """``"2304:0.5"`` as (2304, 0.5)."""
    length, colon, ratio = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(length), float(ratio)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected TOKENS:RATIO, for example 2304:0.5, got {text!r}"
        ) from None


def _number(value: object, name: str) -> float:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number of a usual size, got {value}") from None


def _digits(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


STAGES = Kind(
    stage_tuple,
    "a list of token counts of square maps",
    {"type": int, "nargs": "*", "metavar": "TOKENS"},
)
STAGE = Kind(optional_stage, "the token count of a square map", {"type": int, "metavar": "TOKENS"})
PRUNED = Kind(
    prune_pairs,
    "token counts of square maps with shares from 0 to below 1",
    {"type": _parse_prune_stage, "nargs": "*", "metavar": "TOKENS:RATIO"},
)
LAYERS = Kind(
    layer_tuple,
    "a list of block indices from 0 on",
    {"type": int, "nargs": "*", "metavar": "BLOCK"},
)
SHARE = Kind(unit_interval, "a number from 0 to 1", {"type": float, "metavar": "NUMBER"})
FLAG = Kind(truth_value, "true or false", {"action": Either})
