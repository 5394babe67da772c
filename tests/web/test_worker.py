"""Work in the one thread, consumed as an iterator."""

from __future__ import annotations

import threading

import pytest

from hart.web.worker import BusyError, StoppedError, Waiting, Worker


@pytest.fixture
def worker():
    return Worker(max_waiting=2)


def idle(worker) -> None:
    """Wait until everything before is done."""
    assert set(worker.events(lambda emit: None)) <= {None, Waiting(1), Waiting(2), Waiting(3)}


def test_events_come_in_order_and_end(worker):
    def work(emit):
        for number in range(5):
            emit(None)  # asks whether anybody is there, and is no event
            emit(number)

    assert list(worker.events(work, tick_s=10)) == list(range(5))


def test_a_silent_time_is_filled(worker):
    go_on, begun = threading.Event(), threading.Event()

    def work(emit):
        begun.set()
        go_on.wait(10)

    iterator = worker.events(work, tick_s=0.01)
    while not begun.is_set():
        next(iterator)
    assert next(iterator) is None
    go_on.set()
    assert set(iterator) <= {None}


def test_a_failure_comes_after_the_events_before_it(worker):
    def work(emit):
        emit(1)
        raise KeyError("broken")

    iterator = worker.events(work, tick_s=10)
    assert next(iterator) == 1
    with pytest.raises(KeyError, match="broken"):
        next(iterator)
    assert list(worker.events(lambda emit: emit(2))) == [2]


def test_who_closes_it_stops_the_work(worker):
    closed, ended = threading.Event(), threading.Event()
    seen = []

    def work(emit):
        emit("started")
        closed.wait(10)
        try:
            emit("more")
        except StoppedError:
            seen.append("stopped")
            raise
        finally:
            ended.set()

    iterator = worker.events(work, tick_s=10)
    assert next(iterator) == "started"
    iterator.close()
    closed.set()
    assert ended.wait(10)
    assert seen == ["stopped"]


def test_turns_come_in_order_and_in_one_thread(worker):
    go_on, seen = threading.Event(), []

    def work(name):
        def run(emit):
            seen.append((name, threading.get_ident()))
            emit(name)
            go_on.wait(10)

        return run

    first = worker.events(work("first"), tick_s=0.01)
    assert next(first) == "first"
    others = [worker.events(work(name), tick_s=0.01) for name in ("second", "third")]
    assert [next(other) for other in others] == [Waiting(1), Waiting(2)]
    assert worker.waiting == 2
    go_on.set()
    assert [event for other in others for event in other if isinstance(event, str)] == [
        "second",
        "third",
    ]
    assert [name for name, _ in seen] == ["first", "second", "third"]
    assert len({thread for _, thread in seen}) == 1


def test_a_full_queue_refuses_and_who_leaves_it_makes_room(worker):
    go_on, drawn = threading.Event(), []

    def busy(emit):
        emit("busy")
        go_on.wait(10)

    first = worker.events(busy, tick_s=0.01)
    assert next(first) == "busy"
    waiting = [worker.events(lambda emit: drawn.append("waiting"), tick_s=0.01) for _ in range(2)]
    for iterator in waiting:
        next(iterator)
    with pytest.raises(BusyError, match="currently busy: 2 requests wait already"):
        next(worker.events(lambda emit: drawn.append("turned away")))
    waiting[0].close()
    assert worker.waiting == 1
    last = worker.events(lambda emit: drawn.append("last"), tick_s=0.01)
    assert next(last) == Waiting(2)
    go_on.set()
    assert set(last) <= {None, Waiting(2), Waiting(1)}
    assert drawn == ["waiting", "last"]


def test_what_nobody_hears_of_fails_into_the_log(worker, caplog):
    worker.start(lambda emit: 1 / 0)
    idle(worker)
    assert "ZeroDivisionError" in caplog.text


def test_a_thread_ends_when_there_is_nothing_to_do(worker, monkeypatch):
    monkeypatch.setattr("hart.web.worker.IDLE_S", 0.01)
    threads = []
    for _ in range(2):
        list(worker.events(lambda emit: threads.append(threading.current_thread())))
        threads[-1].join(10)
        assert not threads[-1].is_alive()
