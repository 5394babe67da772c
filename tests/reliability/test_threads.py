"""Threads that draw at the same time, on one model or on models of their own."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hart.pipeline import HARTPipeline
from hart.pipeline.options import ImageRequest
from tests.product import product
from tests.reliability.lent import PRESETS, expected_picture, picture, tiny_pipeline
from tests.reliability.modes import MODES, draw, enter, traces

THREADS = 4


@pytest.fixture
def start():
    """Lets all threads go at the same moment."""
    return threading.Barrier(THREADS)


@product(2, mode=MODES[::-1])
def test_threads_on_one_model_all_get_their_image(pipeline, start, mode):
    enter(pipeline, mode)
    expected = draw(pipeline).tobytes()
    one = traces(pipeline)
    enter(pipeline, mode)

    def attempt(_) -> bytes:
        start.wait()
        return draw(pipeline).tobytes()

    with ThreadPoolExecutor(THREADS) as threads:
        served = list(threads.map(attempt, range(THREADS)))
    assert set(served) == {expected}
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


def own_models(pipeline: HARTPipeline) -> list[HARTPipeline]:
    return [copy.deepcopy(pipeline) for _ in range(THREADS)]


def one_autoencoder(pipeline: HARTPipeline) -> list[HARTPipeline]:
    (vae,) = pipeline.model.vae_proxy
    pipelines = own_models(pipeline)
    for own in pipelines:
        own.model.attach_autoencoder(vae)
    return pipelines


def one_model(pipeline: HARTPipeline) -> list[HARTPipeline]:
    return [copy.copy(pipeline) for _ in range(THREADS)]


@product(
    2,
    share=[own_models, one_autoencoder, one_model],
    dtype=[torch.float32, torch.bfloat16],
    engine=[True, False],
)
def test_each_thread_gets_the_picture_of_a_lone_one(start, share, dtype, engine):
    """Each draws several times, so that copies of the decoder are made while others decode."""
    preset = PRESETS[1]
    expected = expected_picture(dtype, preset, engine)

    def attempt(own) -> list[bytes]:
        start.wait()
        return [picture(own) for _ in range(3)]

    with ThreadPoolExecutor(THREADS) as threads:
        drawn = list(threads.map(attempt, share(tiny_pipeline(dtype, preset, engine))))
    assert drawn == [[expected] * 3] * THREADS


def test_a_copy_that_is_made_while_its_model_draws_is_free_to_draw():
    pipeline, copies = tiny_pipeline(preset="ultra-fast"), []
    expected = picture(pipeline)

    def take(si: int, _) -> None:
        if si == 4:
            copies.append(copy.deepcopy(pipeline))

    pipeline("another", callback=take, quiet=True)
    assert picture(copies[0]) == expected
    copies[0].model.set_cache_config("no-cache")
    assert picture(copies[0]) == expected_picture(torch.float32, "no-cache", True)


def test_a_generation_inside_of_a_generation_draws_its_own_picture():
    pipeline, inside = tiny_pipeline(preset="ultra-fast"), []
    expected = picture(pipeline)
    pipeline("a", callback=lambda *_: inside.append(picture(pipeline)), quiet=True)
    assert set(inside) == {expected}
    assert picture(pipeline) == expected


def test_each_image_counts_its_own_modules(start):
    pipeline, request = tiny_pipeline(preset="original"), [ImageRequest(0, "a red fox", 11)]
    (alone,) = pipeline.draw_together(request)

    def attempt(_) -> list[dict]:
        start.wait()
        return [pipeline.draw_together(request)[0].stages for _ in range(3)]

    with ThreadPoolExecutor(THREADS) as threads:
        counted = list(threads.map(attempt, range(THREADS)))
    assert sum(site["reused"] for stage in alone.stages.values() for site in stage.values()) > 0
    assert counted == [[alone.stages] * 3] * THREADS
