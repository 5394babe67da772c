"""One thread that has the model, and the requests that wait for it in the order they came."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

TICK_S = 0.25
IDLE_S = 60.0
"""Without work for so long the thread ends; the next job starts another one."""

Emit = Callable[[Any], None]
"""Hands an event to the consumer; raises :class:`StoppedError` once there is none. With None it
only does the latter."""

_log = logging.getLogger(__name__)


class StoppedError(Exception):
    """Nobody waits for the result any more."""


class BusyError(ValueError):
    """Too many jobs wait already."""


@dataclass(frozen=True)
class Waiting:
    """A job's turn has not come: so many are before it, the running one included."""

    ahead: int


class _Job:
    """Work and the events it has emitted; ends with ``("end", None)`` or a failure."""

    def __init__(self, work: Callable[[Emit], None]) -> None:
        self._work = work
        self.events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.stopped = threading.Event()

    def run(self) -> None:
        end: tuple[str, Any] = ("end", None)
        try:
            self._work(self._emit)
        except StoppedError:
            pass
        except BaseException as error:
            end = ("failure", error)
        self.events.put(end)

    def _emit(self, event: Any) -> None:
        if self.stopped.is_set():
            raise StoppedError
        if event is not None:
            self.events.put(("event", event))


class Worker:
    """Does one job at a time, always in the same thread.

    A thread of its own for every job would keep memory and thread pools of its own as well.

    Args:
        max_waiting: jobs that may wait beside the one that runs.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._condition = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._running: _Job | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn."""
        with self._condition:
            return len(self._jobs)

    def events(
        self, work: Callable[[Emit], None], tick_s: float = TICK_S
    ) -> Generator[Any, None, None]:
        """Let ``work`` be done when its turn comes and yield what it emits.

        Yields :class:`Waiting` before its turn and None during it, whenever nothing has happened
        for ``tick_s`` seconds, so that a consumer that wants to stop never hangs in here. Closing
        the iterator takes the job out of the queue; if it runs, its next ``emit`` raises
        :class:`StoppedError`, and it is not waited for.

        Raises:
            BusyError: too many jobs wait; raised with the first event.
            Exception: whatever ``work`` raises, after the events before it.
        """
        job = _Job(work)
        self._submit(job)
        try:
            while True:
                try:
                    kind, value = job.events.get(timeout=tick_s)
                except queue.Empty:
                    ahead = self._ahead(job)
                    yield Waiting(ahead) if ahead else None
                    continue
                if kind == "end":
                    return
                if kind == "failure":
                    raise value
                yield value
        finally:
            self._withdraw(job)

    def start(self, work: Callable[[Emit], None]) -> None:
        """Let ``work`` be done when its turn comes; nobody hears of it, a failure is logged."""

        def run(emit: Emit) -> None:
            try:
                work(emit)
            except StoppedError:
                raise
            except Exception:
                _log.exception("work in the background failed")

        self._submit(_Job(run))

    def close(self) -> None:
        """Drop what waits, stop what runs at its next ``emit``, and wait for that.

        A thread that still computes when the interpreter ends takes the process down with it.
        """
        with self._condition:
            self._closed, thread = True, self._thread
            self._jobs.clear()
            if self._running is not None:
                self._running.stopped.set()
            self._condition.notify_all()
        if thread is not None:
            thread.join()

    def _submit(self, job: _Job) -> None:
        with self._condition:
            before = len(self._jobs) + (self._running is not None)
            if before > self._max_waiting:
                raise BusyError(
                    f"The page is currently busy: {before - 1} requests wait already. "
                    "Please try again later."
                )
            if self._closed:
                raise BusyError("The page is being stopped.")
            self._jobs.append(job)
            self._condition.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hart-web", daemon=True)
                self._thread.start()

    def _ahead(self, job: _Job) -> int:
        with self._condition:
            running = self._running is not None
            return self._jobs.index(job) + running if job in self._jobs else 0

    def _withdraw(self, job: _Job) -> None:
        job.stopped.set()
        with self._condition:
            if job in self._jobs:
                self._jobs.remove(job)

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._jobs or self._closed, timeout=IDLE_S)
                if not self._jobs:
                    self._thread = None
                    return
                job = self._running = self._jobs.popleft()
            try:
                job.run()
            finally:
                with self._condition:
                    self._running = None
            del job  # while idle nothing keeps the pictures of the last one
