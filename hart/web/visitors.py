"""Who is still there to be told: a request that nobody listens to is not worth drawing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TypeVar

GRACE_S = 5.0
"""How long a session may be without a connection before its requests are dropped."""

_TICK_S = 0.1
_Update = TypeVar("_Update")


class Visitors:
    """The open connections over which sessions listen to what becomes of their requests.

    Args:
        grace_s: see :data:`GRACE_S`.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._left: dict[str, float] = {}

    @contextlib.contextmanager
    def connected(self, session: str) -> Iterator[None]:
        """Inside, ``session`` listens."""
        with self._lock:
            self._open[session] = self._open.get(session, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._open[session] -= 1
                if not self._open[session]:
                    del self._open[session]
                    self._left[session] = time.monotonic()
                self._forget()

    def listens(self, session: str) -> bool:
        """Whether ``session`` has a connection."""
        with self._lock:
            return session in self._open

    def is_there(self, session: str) -> bool:
        """Whether ``session`` has a connection, or lost its last one a moment ago."""
        with self._lock:
            self._forget()
            return session in self._open or session in self._left

    def while_there(self, session: str, updates: Iterator[_Update]) -> Iterator[_Update | dict]:
        """``updates``, from when ``session`` listens until it no longer does.

        Nothing is taken from ``updates`` before: a request whose answer nobody has asked for is
        not started, and given up after the grace time. Meanwhile yields empty dictionaries.
        """
        end = time.monotonic() + self._grace_s
        while not self.listens(session):
            if time.monotonic() > end:
                return
            yield {}
            time.sleep(_TICK_S)
        for update in updates:
            if not self.is_there(session):
                return
            yield update

    def _forget(self) -> None:
        oldest = time.monotonic() - self._grace_s
        self._left = {name: left for name, left in self._left.items() if left > oldest}
