"""The requests that wait for the model, and the one thread that draws them, several at a time."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import NamedTuple

from hart.batch.drawing import is_out_of_memory
from hart.pipeline import ImageResult
from hart.pipeline.options import DEFAULT_BATCH_SIZE, ImageRequest
from hart.server import DEFAULT_SERVER_WAITING
from hart.server.errors import BUSY, FAILED, ApiError
from hart.server.requests import ImagesRequest, Settings

Draw = Callable[[Settings, Sequence[ImageRequest], Callable[[], None]], list[ImageResult]]
"""Draws images together; calls its last argument now and then, which raises
:class:`StoppedError` once nobody wants them any more."""

_log = logging.getLogger(__name__)


class StoppedError(Exception):
    """Nobody waits for these images any more."""


@dataclass(frozen=True, eq=False)
class Ticket:
    """A request in the queue.

    Attributes:
        request: what is to be drawn.
        future: becomes its results, in order; cancelling it takes the request out of the queue, or
            ends its drawing after the current stage.
        results: those that are finished.
    """

    request: ImagesRequest
    future: Future[list[ImageResult]] = field(default_factory=Future)
    results: dict[int, ImageResult] = field(default_factory=dict)


class _Piece(NamedTuple):
    ticket: Ticket
    image: ImageRequest


class BatchRecord(NamedTuple):
    """A batch that was drawn: its results, and how long it took."""

    results: list[ImageResult]
    seconds: float


class DrawingQueue:
    """Draws requests in the order in which they came.

    Whenever the model is free, the image that has waited longest is drawn together with the next
    ones of any requests that have its settings. A batch that fails is tried again in halves, so
    that neither a lack of memory nor a single image takes others with it.

    Args:
        draw: draws a batch.
        batch_size: images that are drawn at the same time, at most.
        max_waiting: requests that may wait, none of whose images has begun.
        observe: is told of every finished batch.
    """

    def __init__(
        self,
        draw: Draw,
        batch_size: int = DEFAULT_BATCH_SIZE,
        max_waiting: int = DEFAULT_SERVER_WAITING,
        observe: Callable[[BatchRecord], None] = lambda record: None,
    ) -> None:
        self._draw, self._observe = draw, observe
        self._batch_size, self._max_waiting = batch_size, max_waiting
        self._condition = threading.Condition()
        self._pieces: deque[_Piece] = deque()
        self._begun: set[Ticket] = set()
        self._drawing = 0
        self._batch_s = 1.0
        self._draining = self._stopping = False
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="hart-serve", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests none of whose images has begun."""
        with self._condition:
            return len(self._waiting_tickets())

    @property
    def drawing(self) -> int:
        """Images that are being drawn."""
        return self._drawing

    @property
    def works(self) -> bool:
        """Whether it takes requests, and the last image could be drawn."""
        return self._thread.is_alive() and not (self._failing or self._draining)

    def submit(self, request: ImagesRequest) -> Ticket:
        """Put a request at the end of the queue.

        Raises:
            ApiError: too many wait already (429), or the server is being stopped (503).
        """
        with self._condition:
            if self._draining:
                raise _stopped()
            waiting = len(self._waiting_tickets())
            if waiting >= self._max_waiting:
                raise ApiError(
                    429,
                    f"{waiting} requests wait already; try again later",
                    BUSY,
                    code="queue_full",
                    retry_after_s=self._patience_s(),
                )
            ticket = Ticket(request)
            self._pieces.extend(_Piece(ticket, image) for image in request.images)
            self._condition.notify()
            return ticket

    def drain(self) -> None:
        """Take nothing more, and give up what waits; requests that have begun are finished."""
        with self._condition:
            self._draining = True
            for ticket in self._waiting_tickets():
                _settle(ticket, _stopped())
            self._condition.notify()

    def close(self) -> None:
        """:meth:`drain`, stop what is drawn after its current stage, and wait for that.

        A thread that still computes when the interpreter ends takes the process down with it.
        """
        self.drain()
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    # --- under the lock -----------------------------------------------------------------------

    def _waiting_tickets(self) -> list[Ticket]:
        tickets = dict.fromkeys(piece.ticket for piece in self._pieces)
        return [each for each in tickets if each not in self._begun and not each.future.done()]

    def _patience_s(self) -> int:
        """When there is probably room again: about the time of a batch, which makes it."""
        return max(1, math.ceil(self._batch_s))

    def _take(self) -> list[_Piece]:
        """The next batch; empty without any."""
        pieces = [piece for piece in self._pieces if not piece.ticket.future.done()]
        settings = pieces[0].ticket.request.settings if pieces else None
        fitting = (each for each in pieces if each.ticket.request.settings == settings)
        batch = [piece for piece, _ in zip(fitting, range(self._batch_size), strict=False)]
        self._pieces = deque(piece for piece in pieces if piece not in batch)
        self._begun = {piece.ticket for piece in [*batch, *self._begun_pieces()]}
        return batch

    def _begun_pieces(self) -> Iterator[_Piece]:
        return (piece for piece in self._pieces if piece.ticket in self._begun)

    # --- in the thread ------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._pieces or self._draining)
                batch = self._take()
                if not batch and self._draining:
                    return
                self._drawing = len(batch)
            if batch:
                self._draw_batch(batch)
            with self._condition:
                self._drawing = 0
            del batch  # while idle nothing keeps the pictures of the last one

    def _draw_batch(self, batch: Sequence[_Piece]) -> None:
        begin = time.monotonic()
        outcome = self._attempt(batch)
        if isinstance(outcome, StoppedError):
            for piece in batch:
                _settle(piece.ticket, _stopped())
        elif not isinstance(outcome, Exception):
            self._batch_s, self._failing = time.monotonic() - begin, False
            self._observe(BatchRecord(outcome, self._batch_s))
            for piece, result in zip(batch, outcome, strict=True):
                _finish(piece, result)
        elif len(batch) > 1:
            half = len(batch) // 2
            if is_out_of_memory(outcome):
                self._batch_size = half
                _log.warning("out of memory; from now on %d images at a time", half)
            for part in (batch[:half], batch[half:]):
                self._draw_batch(part)
        else:
            self._failing = True
            _settle(batch[0].ticket, ApiError(500, "the image could not be drawn", FAILED))

    def _attempt(self, batch: Sequence[_Piece]) -> list[ImageResult] | Exception:
        """What became of a batch; an exception without its frames, which hold tensors."""

        def check() -> None:
            if self._stopping or all(piece.ticket.future.done() for piece in batch):
                raise StoppedError

        settings = batch[0].ticket.request.settings
        try:
            check()
            return self._draw(settings, [piece.image for piece in batch], check)
        except StoppedError:
            return StoppedError()
        except Exception as error:
            if len(batch) == 1:
                _log.exception("an image could not be drawn")
            return MemoryError() if is_out_of_memory(error) else RuntimeError(str(error))


def _stopped() -> ApiError:
    text = "the server is being stopped; another one, or this one later, will draw it"
    return ApiError(503, text, FAILED, code="stopping", retry_after_s=1)


def _settle(ticket: Ticket, outcome: list[ImageResult] | ApiError) -> None:
    """End a request, unless its client has gone."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, ApiError):
            ticket.future.set_exception(outcome)
        else:
            ticket.future.set_result(outcome)


def _finish(piece: _Piece, result: ImageResult) -> None:
    results = piece.ticket.results
    results[piece.image.index] = result
    if len(results) == len(piece.ticket.request.images):
        _settle(piece.ticket, [results[i] for i in sorted(results)])
