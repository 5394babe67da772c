"""One generation at a time on a model: a second one waits for its turn, or is refused."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from torch import nn

_turn = threading.Condition()
_generating: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Models that generate now, and in which thread. Not an attribute, which copies would inherit."""


def is_generating(model: nn.Module) -> bool:
    """Whether a generation is running on ``model``, in any thread."""
    return model in _generating


@contextlib.contextmanager
def exclusive(model: nn.Module, wait: bool) -> Iterator[None]:
    """While inside, no other generation runs on ``model``.

    Args:
        wait: for another thread's generation to end; otherwise it is an error.

    Raises:
        RuntimeError: another thread is generating and ``wait`` is False, or this one is.
    """
    me = threading.get_ident()
    with _turn:
        while wait and _generating.get(model, me) != me:
            _turn.wait()
        if model in _generating:
            where = "this" if _generating[model] == me else "another"
            raise RuntimeError(
                f"this model is generating in {where} thread; wait for it, or give every "
                "thread its own model"
            )
        _generating[model] = me
    try:
        yield
    finally:
        with _turn:
            del _generating[model]
            _turn.notify_all()
