"""The name that somebody meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: object, known: Iterable[str]) -> str:
    """``"; did you mean 'original'?"`` for the name that is most like ``name``, else nothing."""
    meant = nearest(name, known)
    return "" if meant is None else f"; did you mean {meant!r}?"


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``, if any is."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1)), None)


SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
"""Short names of number formats, taken wherever the long ones are."""
