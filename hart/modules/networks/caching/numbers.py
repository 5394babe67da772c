"""Numbers of numpy and torch as Python's own, so that they are taken wherever those are."""

from __future__ import annotations

import numbers
import operator
from typing import Any


def plain(value: Any) -> Any:
    """A number or truth value of another library as Python's own; anything else as it is.

    That is whatever follows the protocols: a scalar, array or tensor without axes (``item``), an
    integer (``__index__``) or a real number (``numbers.Real``). Lists and tuples are converted
    entry by entry. What is not allowed is left for the caller to refuse.
    """
    if type(value) in (bool, int, float):
        return value
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    if hasattr(value, "__index__") and not hasattr(value, "ndim"):
        return operator.index(value)
    return float(value) if isinstance(value, numbers.Real) else value


def plain_list(values: Any) -> list:
    """Entries of a list, an array or a tensor, as :func:`plain`; one number is one entry."""
    values = plain(values)
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [plain(value) for value in values] if hasattr(values, "__iter__") else [values]


def integer(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as an ``int``.

    Raises:
        ValueError: it is no integer (a truth value is none), or below ``least``.
    """
    number = plain(value)
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or (least is not None and number < least):
        limit = "" if least is None else f" from {least}"
        raise ValueError(f"{name} must be an integer{limit}, got {value!r}")
    return number
