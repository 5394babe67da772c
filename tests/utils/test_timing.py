"""The clock of a generation's parts."""

from __future__ import annotations

import pytest
import torch

from hart.utils import timing
from hart.utils.timing import Timeline


@pytest.fixture
def clock(monkeypatch):
    """A host clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_a_part_lasts_from_the_mark_before_it_to_its_own(clock):
    timeline = Timeline("cpu")
    clock[0] += 1.0
    timeline.mark("text")
    clock[0] += 0.25
    timeline.mark("stage 0")
    assert timeline.seconds() == [("text", 1.0), ("stage 0", 0.25)]


def test_parts_of_one_name_stay_apart_in_order_and_add_up_in_the_totals(clock):
    timeline = Timeline(torch.device("cpu"))
    for name, length in (("stage", 1.0), ("residual", 2.0), ("stage", 4.0)):
        clock[0] += length
        timeline.mark(name)
    assert [name for name, _ in timeline.seconds()] == ["stage", "residual", "stage"]
    assert timeline.totals() == {"stage": 5.0, "residual": 2.0}


def test_a_timeline_can_be_read_before_its_end(clock):
    timeline = Timeline("cpu")
    assert timeline.seconds() == []
    clock[0] += 1.0
    timeline.mark("first")
    assert timeline.totals() == {"first": 1.0}
    clock[0] += 2.0
    timeline.mark("second")
    assert timeline.totals() == {"first": 1.0, "second": 2.0}


class Event:
    """Stands in for a CUDA event: time passes on the device, and reading without waiting fails."""

    made: list[Event]

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.made.append(self)
        self.waited = False

    def record(self, stream) -> None:
        assert stream == "stream of cuda:1"

    def synchronize(self) -> None:
        for event in self.made:
            event.waited = True

    def elapsed_time(self, end: Event) -> float:
        assert self.waited
        assert end.waited
        return 500.0


def test_cuda_marks_are_events_that_nobody_waits_for_until_the_end(monkeypatch):
    Event.made = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    timeline = Timeline("cuda:1")
    timeline.mark("a")
    timeline.mark("b")
    assert len(Event.made) == 3
    assert not any(event.waited for event in Event.made)
    assert timeline.seconds() == [("a", 0.5), ("b", 0.5)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_part_holds_the_work_that_was_queued_in_it():
    matrix = torch.ones(4096, 4096, device="cuda")
    timeline = Timeline("cuda")
    for name, products in (("warm-up", 1), ("short", 1), ("long", 20)):
        for _ in range(products):
            matrix @ matrix
        timeline.mark(name)
    totals = timeline.totals()
    assert totals["long"] > 3 * totals["short"] > 0
