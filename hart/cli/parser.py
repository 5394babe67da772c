"""An argument parser whose complaints are one line, and types for its arguments."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from hart.version import __version__


class UsageError(ValueError):
    """A command line that cannot be understood."""


class CommandParser(argparse.ArgumentParser):
    """Raises :class:`UsageError` instead of printing the usage and leaving the process."""

    def __init__(self, *args, **kwargs) -> None:
        # Abbreviations would change their meaning whenever a flag is added.
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.add_argument("--version", action="version", version=f"hart {__version__}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; {self.prog} --help lists the arguments")


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


def on_off(group: argparse._ArgumentGroup, name: str, default: bool | None, text: str) -> None:
    """Add ``--name`` and ``--no-name``."""
    group.add_argument(
        f"--{name}", action=argparse.BooleanOptionalAction, default=default, help=text
    )


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add ``--debug``, which every command has."""
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
