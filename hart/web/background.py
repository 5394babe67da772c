"""Work that reports through a callback, as an iterator whose consumer may walk away."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

TICK_S = 0.25


class StoppedError(Exception):
    """Nobody waits for the result any more."""


Emit = Callable[[Any], None]
"""Hands an event to the consumer; raises :class:`StoppedError` once there is none. With None it
only does the latter."""


def in_background(work: Callable[[Emit], None], tick_s: float = TICK_S) -> Iterator[Any]:
    """Run ``work`` in a thread and yield what it emits.

    Yields None whenever nothing has happened for ``tick_s`` seconds, so that a consumer that
    wants to stop never hangs in here. Closing the iterator makes the work's next ``emit`` raise
    :class:`StoppedError`; it is not waited for.

    Raises:
        Exception: whatever ``work`` raises, after the events before it.
    """
    events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    stopped = threading.Event()

    def emit(event: Any) -> None:
        if stopped.is_set():
            raise StoppedError
        if event is not None:
            events.put(("event", event))

    def run() -> None:
        try:
            work(emit)
        except StoppedError:
            events.put(("end", None))
        except Exception as error:
            events.put(("failure", error))
        else:
            events.put(("end", None))

    threading.Thread(target=run, name="hart-web", daemon=True).start()
    try:
        while True:
            try:
                kind, value = events.get(timeout=tick_s)
            except queue.Empty:
                yield None
                continue
            if kind == "end":
                return
            if kind == "failure":
                raise value
            yield value
    finally:
        stopped.set()
