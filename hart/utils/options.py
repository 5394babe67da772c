"""Options that are written once.

A field of a frozen dataclass that is made by :func:`option` carries its help, its flags and how its
values are checked. Command lines, the names in a model's configuration, the checks, docstrings and
the tables of the manual follow from it. ``transformers.HfArgumentParser`` reads fields too, but
imports torch before it prints a help text, and cannot leave a flag with a default unset.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What values an option takes.

    Attributes:
        check: takes a value and the field's name; returns the value as it is kept, or raises
            ``ValueError`` or ``TypeError`` with the field, the value and what is allowed.
        text: what is allowed.
        parser: arguments of ``add_argument`` that read such a value.
    """

    check: Callable[[Any, str], Any]
    text: str
    parser: Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """What a field says about itself, see :func:`option`."""

    kind: Kind
    help: str
    flags: tuple[str, ...]
    default: Any

    @property
    def name(self) -> str:
        """Name in a parser's namespace and in a model's configuration."""
        return self.flags[0].removeprefix("--").replace("-", "_")


def option(default: Any, kind: Kind, text: str, *flags: str, flag_default: Any = None) -> Any:
    """A dataclass field that is an option.

    Args:
        default: what the field is if nothing is said.
        kind: what it may be.
        text: one line about it.
        flags: its flags on a command line, or none; the second one of a truth value means False.
        flag_default: what a command line means that has none of them; None is ``default``.
    """
    shown = default if flag_default is None else flag_default
    return field(default=default, metadata={"option": Option(kind, text, flags, shown)})


def options_of(cls: type) -> Mapping[str, Option]:
    """The options of a dataclass by field, in order; a subclass may give a field a new default."""
    found: dict[str, Option] = {}
    for base in reversed(cls.__mro__):
        for name, each in vars(base).get("__dataclass_fields__", {}).items():
            if "option" in each.metadata:
                found[name] = each.metadata["option"]
            elif name in found:
                found[name] = replace(found[name], default=each.default)
    return found


def check_options(instance: Any) -> None:
    """Check every option of a dataclass that is being made, and keep the values in their form.

    Raises:
        ValueError, TypeError: the first value that is not allowed.
    """
    for name, each in options_of(type(instance)).items():
        object.__setattr__(instance, name, each.kind.check(getattr(instance, name), name))


def document_options(cls: type) -> type:
    """Class decorator: write the options where the docstring says ``<options>``."""
    if cls.__doc__:
        cls.__doc__ = cls.__doc__.replace("<options>", "\n        ".join(option_lines(cls)))
    return cls


def option_lines(cls: type, shown: Mapping[str, str] | None = None) -> list[str]:
    """A line of a docstring per option; ``shown`` gives some of them another name."""
    return [
        f"{(shown or {}).get(name, name)}: {each.help} "
        f"({each.kind.text}; default {getattr(cls, name)!r})."
        for name, each in options_of(cls).items()
    ]


def add_options(
    group: argparse._ActionsContainer,
    options: Iterable[Option],
    unset: bool = False,
    default: str | None = None,
) -> None:
    """Add the flags of options.

    Args:
        unset: a flag that is not given leaves None behind instead of the default.
        default: what the help calls the default; None shows it unless it is unset.
    """
    for each in options:
        notes = [each.kind.text] if "metavar" in each.kind.parser else []
        if default is not None:
            notes.append(f"default {default}")
        elif not unset and each.default is not None:
            notes.append("default %(default)s")
        text = f"{each.help} ({'; '.join(notes)})" if notes else each.help
        start = None if unset else each.default
        if each.flags:
            group.add_argument(*each.flags, help=text, default=start, **each.kind.parser)


class Either(argparse.Action):
    """Two flags for one truth value: the first one means True, the second one False."""

    def __init__(self, option_strings, dest, **keywords) -> None:
        super().__init__(option_strings, dest, nargs=0, **keywords)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, option_string == self.option_strings[0])

    def format_usage(self) -> str:
        return " | ".join(self.option_strings)


def integer_from(least: int) -> Callable[[str], int]:
    """A parser type for integers that are not below ``least``."""

    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected an integer from {least}, got {text!r}")
        return value

    return integer


def number_within(least: float, greatest: float) -> Callable[[str], float]:
    """A parser type for numbers from ``least`` to ``greatest``."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= greatest:  # also refuses NaN
            raise argparse.ArgumentTypeError(
                f"expected a number within [{least:g}, {greatest:g}], got {text!r}"
            )
        return value

    return number
