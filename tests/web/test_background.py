"""Work in a thread, consumed as an iterator."""

from __future__ import annotations

import threading

import pytest

from hart.web.background import StoppedError, in_background


def test_events_come_in_order_and_end():
    def work(emit):
        for number in range(5):
            emit(None)  # asks whether anybody is there, and is no event
            emit(number)

    assert list(in_background(work, tick_s=10)) == list(range(5))


def test_a_silent_time_is_filled():
    go_on = threading.Event()
    iterator = in_background(lambda emit: go_on.wait(10), tick_s=0.01)
    assert next(iterator) is None
    go_on.set()
    assert set(iterator) <= {None}


def test_a_failure_comes_after_the_events_before_it():
    def work(emit):
        emit(1)
        raise KeyError("broken")

    iterator = in_background(work, tick_s=10)
    assert next(iterator) == 1
    with pytest.raises(KeyError, match="broken"):
        next(iterator)


def test_who_closes_it_stops_the_work():
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

    iterator = in_background(work, tick_s=10)
    assert next(iterator) == "started"
    iterator.close()
    closed.set()
    assert ended.wait(10)
    assert seen == ["stopped"]
