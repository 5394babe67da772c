"""Threads: on one model they are served or refused, on models of their own they do not meet."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.reliability.modes import MODES, draw, enter, traces

THREADS = 4


@pytest.fixture
def start():
    """Lets all threads go at the same moment."""
    return threading.Barrier(THREADS)


@pytest.mark.parametrize("mode", MODES)
def test_threads_on_one_model_get_their_image_or_are_refused(pipeline, start, mode):
    enter(pipeline, mode)
    expected = draw(pipeline).tobytes()
    one = traces(pipeline)
    enter(pipeline, mode)

    def attempt(_) -> bytes | str:
        start.wait()
        try:
            return draw(pipeline).tobytes()
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(THREADS) as threads:
        outcomes = list(threads.map(attempt, range(THREADS)))
    served = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert served
    assert set(served) == {expected}
    assert all("generating in another thread" in reason for reason in refused)
    assert traces(pipeline)["images"] == len(served)
    enter(pipeline, mode)
    assert draw(pipeline).tobytes() == expected
    assert traces(pipeline) == one


def test_threads_with_a_model_each_all_get_their_image(pipeline, start):
    enter(pipeline, "cached")
    expected = draw(pipeline).tobytes()
    pipelines = [copy.copy(pipeline) for _ in range(THREADS)]
    for own in pipelines:
        own.model = copy.deepcopy(pipeline.model)
        own.text_model = copy.deepcopy(pipeline.text_model)

    def attempt(own) -> bytes:
        start.wait()
        return draw(own).tobytes()

    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(attempt, pipelines)) == [expected] * THREADS
