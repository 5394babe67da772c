"""What a configuration's fields may hold, as data.

Configurations come from files of strangers. What a field may hold stands in a table beside the
class, ``name -> Whole(1, 64)``. Bounds are far above every published model and small enough for
arithmetic with them to stay harmless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from hart.utils.errors import CheckpointError, shown

CONFIG_FILE = "config.json"


class Field(Protocol):
    """What one field may hold. Its text says so."""

    def allows(self, value: object) -> bool: ...


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``, and a multiple of ``step`` above ``low``."""

    low: int
    high: int
    step: int = 1

    def allows(self, value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and not (value - self.low) % self.step

    def __str__(self) -> str:
        steps = f" in steps of {self.step}" if self.step > 1 else ""
        return f"a whole number from {self.low} to {self.high}{steps}"


@dataclass(frozen=True)
class Number:
    """A finite number from ``low`` to ``high``."""

    low: float = -math.inf
    high: float = math.inf

    def allows(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        try:
            return math.isfinite(value) and self.low <= value <= self.high
        except OverflowError:  # a whole number beyond the largest float
            return False

    def __str__(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return "a finite number"
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def allows(self, value: object) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: tuple[str, ...]

    def allows(self, value: object) -> bool:
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        return " or ".join(map(repr, self.names))


@dataclass(frozen=True)
class Text:
    """Text without control characters, at least ``low`` characters long."""

    low: int = 0
    high: int = 4096

    def allows(self, value: object) -> bool:
        if not isinstance(value, str) or not self.low <= len(value) <= self.high:
            return False
        return value.isprintable()

    def __str__(self) -> str:
        return f"printable text of {self.low} to {self.high} characters"


@dataclass(frozen=True)
class Items:
    """A list of ``low`` to ``high`` entries, each allowed by ``entry``."""

    entry: Field
    low: int
    high: int

    def allows(self, value: object) -> bool:
        if not isinstance(value, (list, tuple)) or not self.low <= len(value) <= self.high:
            return False
        return all(map(self.entry.allows, value))

    def __str__(self) -> str:
        return f"a list of {self.low} to {self.high} entries, each {self.entry}"


@dataclass(frozen=True)
class Checked:
    """What a function takes without a ``ValueError`` or ``TypeError``; ``text`` describes it."""

    take: Callable[[Any], object]
    text: str

    def allows(self, value: object) -> bool:
        try:
            self.take(value)
        except (ValueError, TypeError, OverflowError):
            return False
        return True

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Optional:
    """``None``, or what ``field`` allows."""

    field: Field

    def allows(self, value: object) -> bool:
        return value is None or self.field.allows(value)

    def __str__(self) -> str:
        return f"{self.field}, or null"


def check_field(name: str, value: object, field: Field) -> None:
    """Refuse what a field does not allow.

    Raises:
        ValueError: the message names the field, the value and what is allowed.
    """
    if not field.allows(value):
        raise ValueError(f"{name} must be {field}, got {shown(value, 80)}")


def check_fields(file: Path, content: Mapping[str, Any], table: Mapping[str, Field]) -> None:
    """Check every field of a file that is in the table.

    Raises:
        CheckpointError: the first that is not allowed.
    """
    for name in filter(content.__contains__, table):
        try:
            check_field(name, content[name], table[name])
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from error


def _dtype(name: object) -> None:
    if not isinstance(name, str) or not isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError


_DTYPE = Optional(Checked(_dtype, "the name of a torch dtype"))


def _nothing(value: object) -> None:
    raise ValueError


GENERAL_FIELDS: dict[str, Field] = {
    "attribute_map": Checked(_nothing, "left out"),  # it would redirect every other field
    "architectures": Optional(Items(Text(), 0, 16)),
    "dtype": _DTYPE,
    "torch_dtype": _DTYPE,
    "return_dict": Flag(),
    "output_attentions": Optional(Flag()),
    "output_hidden_states": Flag(),
    "is_encoder_decoder": Flag(),
    "tie_word_embeddings": Flag(),
    "chunk_size_feed_forward": Whole(0, 1 << 20),
    "num_labels": Whole(0, 1 << 12),
    "problem_type": Optional(Text()),
}
"""Fields that ``transformers`` reads in every model's configuration."""
