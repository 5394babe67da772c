"""Who is drawn with whom, who waits, and who is told what when it does not go well."""

from __future__ import annotations

import threading
import time

import pytest

from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline.options import ImageRequest
from hart.server.errors import ApiError
from hart.server.queue import DrawingQueue
from hart.server.requests import ImagesRequest, Settings

PATIENCE_S = 20
PLAIN = Settings(CacheConfig())
GUIDED = Settings(CacheConfig(), 7.0)


def asking(prompt: str, images: int = 1, settings: Settings = PLAIN) -> ImagesRequest:
    return ImagesRequest(tuple(ImageRequest(i, prompt, i) for i in range(images)), settings)


class Model:
    """Draws a batch when it is let; a picture is its prompt and its index.

    Attributes:
        batches: what it was asked for.
        fails: prompts that it cannot draw; ``largest`` batch that fits the memory.
    """

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self._let = threading.Semaphore(0), threading.Semaphore(0)
        self.fails: tuple[str, ...] = ()
        self.largest = 100

    def __call__(self, settings, images, check):
        self.batches.append([image.prompt for image in images])
        self.begun.release()
        while not self._let.acquire(timeout=0.01):
            check()
        if len(images) > self.largest:
            raise MemoryError
        if any(image.prompt in self.fails for image in images):
            raise RuntimeError("it does not work")
        return [(image.prompt, image.index) for image in images]

    def let(self, batches: int = 100) -> None:
        self._let.release(batches)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def queue(model):
    queue = DrawingQueue(model, batch_size=4, max_waiting=3)
    yield queue
    queue.close()


def occupied(queue, model) -> object:
    """The ticket of an image that is being drawn until the model is let."""
    ticket = queue.submit(asking("first"))
    assert model.begun.acquire(timeout=PATIENCE_S)
    return ticket


def test_what_waits_is_drawn_together(queue, model):
    first = occupied(queue, model)
    others = [queue.submit(asking(name, 2)) for name in ("a", "b", "c")]
    model.let()
    assert first.future.result(PATIENCE_S) == [("first", 0)]
    for name, ticket in zip("abc", others, strict=True):
        assert ticket.future.result(PATIENCE_S) == [(name, 0), (name, 1)]
    assert model.batches == [["first"], ["a", "a", "b", "b"], ["c", "c"]]


def test_a_request_larger_than_a_batch_is_drawn_in_pieces_that_others_join(queue, model):
    occupied(queue, model)
    large, small = queue.submit(asking("large", 6)), queue.submit(asking("small"))
    model.let()
    assert large.future.result(PATIENCE_S) == [("large", i) for i in range(6)]
    assert small.future.result(PATIENCE_S) == [("small", 0)]
    assert model.batches[1:] == [["large"] * 4, ["large", "large", "small"]]


def test_other_settings_are_drawn_apart_and_nobody_is_overtaken_twice(queue, model):
    occupied(queue, model)
    settings = {"a": PLAIN, "b": GUIDED, "c": PLAIN}
    tickets = [queue.submit(asking(name, settings=each)) for name, each in settings.items()]
    model.let()
    for ticket in tickets:
        ticket.future.result(PATIENCE_S)
    assert model.batches[1:] == [["a", "c"], ["b"]]


def test_a_full_queue_says_when_to_come_back(queue, model):
    occupied(queue, model)
    tickets = [queue.submit(asking("waits")) for _ in range(3)]
    assert queue.waiting == 3
    with pytest.raises(ApiError, match="3 requests wait already") as full:
        queue.submit(asking("too many"))
    assert full.value.status == 429
    assert int(full.value.headers["Retry-After"]) >= 1
    tickets[0].future.cancel()
    assert queue.waiting == 2
    last = queue.submit(asking("there is room again"))
    model.let()
    assert last.future.result(PATIENCE_S)
    assert model.batches[1:] == [["waits", "waits", "there is room again"]]


def test_what_nobody_wants_any_more_is_stopped(queue, model):
    gone = occupied(queue, model)
    other = queue.submit(asking("other"))
    gone.future.cancel()
    assert model.begun.acquire(timeout=PATIENCE_S)  # the next batch, without letting the first one
    model.let()
    assert other.future.result(PATIENCE_S) == [("other", 0)]


def test_a_batch_goes_on_for_those_who_are_still_there(queue, model):
    occupied(queue, model)
    gone, there = queue.submit(asking("gone")), queue.submit(asking("there"))
    model.let(1)
    assert model.begun.acquire(timeout=PATIENCE_S)
    gone.future.cancel()
    model.let()
    assert there.future.result(PATIENCE_S) == [("there", 0)]
    assert model.batches[1:] == [["gone", "there"]]


def test_an_image_that_fails_takes_no_other_with_it(queue, model):
    occupied(queue, model)
    model.fails = ("bad",)
    tickets = [queue.submit(asking(name)) for name in ("good", "bad", "fine")]
    model.let()
    assert tickets[0].future.result(PATIENCE_S) == [("good", 0)]
    assert tickets[2].future.result(PATIENCE_S) == [("fine", 0)]
    with pytest.raises(ApiError, match="could not be drawn") as failed:
        tickets[1].future.result(PATIENCE_S)
    assert failed.value.status == 500


def test_it_is_unwell_from_a_failure_to_the_next_image(queue, model):
    model.fails, model.largest = ("bad",), 4
    model.let()
    for name, works in (("good", True), ("bad", False), ("good", True)):
        queue.submit(asking(name)).future.exception(PATIENCE_S)
        assert queue.works == works


def test_a_lack_of_memory_makes_later_batches_smaller(queue, model):
    model.largest = 2
    model.let()
    assert len(queue.submit(asking("a", 4)).future.result(PATIENCE_S)) == 4
    assert len(queue.submit(asking("b", 4)).future.result(PATIENCE_S)) == 4
    assert [len(batch) for batch in model.batches] == [4, 2, 2, 2, 2]


def test_draining_finishes_what_has_begun_and_gives_up_the_rest(queue, model):
    begun = queue.submit(asking("begun", 6))
    assert model.begun.acquire(timeout=PATIENCE_S)
    waits = queue.submit(asking("waits", settings=GUIDED))
    queue.drain()
    for refused in (lambda: waits.future.result(0), lambda: queue.submit(asking("late"))):
        with pytest.raises(ApiError, match="being stopped") as told:
            refused()
        assert (told.value.status, told.value.headers["Retry-After"]) == (503, "1")
    assert not queue.works
    model.let()
    assert len(begun.future.result(PATIENCE_S)) == 6


def test_closing_stops_what_is_drawn(queue, model):
    ticket = occupied(queue, model)
    queue.close()
    with pytest.raises(ApiError, match="being stopped"):
        ticket.future.result(0)


def test_every_batch_is_observed(model):
    seen = []
    queue = DrawingQueue(model, observe=seen.append)
    model.let()
    queue.submit(asking("a", 2)).future.result(PATIENCE_S)
    queue.close()
    assert [record.results for record in seen] == [[("a", 0), ("a", 1)]]
    assert 0 <= seen[0].seconds < PATIENCE_S


def test_thousands_of_requests_that_come_and_go(model):
    """Every future ends, and nothing is drawn twice."""
    queue = DrawingQueue(model, batch_size=8, max_waiting=10_000)
    model.let(10_000)
    tickets = [queue.submit(asking(str(i), i % 3 + 1)) for i in range(2000)]
    for ticket in tickets[::7]:
        ticket.future.cancel()
    end = time.monotonic() + PATIENCE_S
    for i, ticket in enumerate(tickets):
        if not ticket.future.cancelled():
            assert len(ticket.future.result(end - time.monotonic())) == i % 3 + 1
    queue.close()
    drawn = [prompt for batch in model.batches for prompt in batch]
    assert all(drawn.count(prompt) <= int(prompt) % 3 + 1 for prompt in set(drawn))
