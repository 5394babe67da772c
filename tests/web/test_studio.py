"""One model shared by several people: the same images as alone, one after the other."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import preset_config
from hart.pipeline import GenerationOptions
from hart.web.events import BatchDone, Calibrated, Drawn, Preview, Progress, WarmingUp
from hart.web.requests import CalibrationRequest, DrawRequest
from hart.web.studio import Studio, UnsafePromptError
from hart.web.worker import Waiting
from tests.pipeline.checkpoint_folder import PATCH_NUMS, STAGES

PROMPTS = ["a red fox", "two boats"]


def request(name="original", prompts=PROMPTS, seed=3, **fields) -> DrawRequest:
    config = preset_config(name, PATCH_NUMS)
    return DrawRequest(list(prompts), GenerationOptions(seed=seed), name, config, **fields)


def events_of(iterator) -> list:
    """What is not about time that passes."""
    return [event for event in iterator if not isinstance(event, Waiting | None)]


def same(a, b) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_a_drawing_shows_every_stage_and_ends_with_the_pipelines_images(studio):
    events = events_of(studio.draw(request()))
    previews = [event for event in events if isinstance(event, Preview)]
    assert [event.preview.si for event in previews] == list(range(len(STAGES) - 1))
    progress = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert progress == [(i + 1, len(STAGES)) for i in range(len(STAGES))]
    drawn = events[-1]
    assert isinstance(drawn, Drawn)
    studio.pipeline.model.set_cache_config("original")
    expected = studio.pipeline(PROMPTS, seed=3).images
    (run,) = drawn.runs
    assert all(same(r.image, e) for r, e in zip(run.results, expected, strict=True))
    assert run.statistics["totals"]["attn"]["reused"] == run.reuse.reused("attn") == 2 * 3
    assert run.reuse.reused("mlp") == 0


def test_a_comparison_draws_the_same_seeds_without_caching(studio):
    events = events_of(studio.draw(request(compare=True, previews=False)))
    assert not any(isinstance(event, Preview) for event in events)
    assert [event.name for event in events if isinstance(event, BatchDone)] == [
        "original",
        "no-cache",
    ]
    own, reference = events[-1].runs
    plain = studio.pipeline(PROMPTS, seed=3).images  # its own configuration is off
    assert all(same(r.image, e) for r, e in zip(reference.results, plain, strict=True))
    assert not same(own.results[0].image, reference.results[0].image)
    assert reference.statistics["saved_share"] == 0 < own.statistics["saved_share"]


@pytest.mark.slow
def test_a_comparison_is_warmed_up_once_and_drawn_in_turns(studio, monkeypatch):
    model, drawn = studio.pipeline.model, []
    generate = type(model).generate_feature_map

    def noted(model, images, **options):
        drawn.append(("cached" if model.cache_config.caches_anything else "plain", images))
        return generate(model, images, **options)

    monkeypatch.setattr(type(model), "generate_feature_map", noted)
    prompts = PROMPTS * 5  # batches of 4, 4 and 2
    events = events_of(studio.draw(request(prompts=prompts, compare=True, previews=False)))
    in_turns = [("cached", 4), ("plain", 4), ("plain", 4), ("cached", 4)]
    in_turns += [("cached", 2), ("plain", 2)]
    assert drawn == [("cached", 4), ("plain", 4), *in_turns]
    assert [type(event) for event in events[:2]] == [WarmingUp, WarmingUp]
    own, reference = events[-1].runs
    for run, name in ((own, "original"), (reference, "no-cache")):
        assert run.statistics["images"] == len(prompts)
        model.set_cache_config(name)
        expected = studio.pipeline(prompts, seed=3)
        assert all(same(r.image, e) for r, e in zip(run.results, expected.images, strict=True))
        assert run.statistics["totals"] == expected.statistics["totals"]
    progress = [(e.done, e.total) for e in events if isinstance(e, Progress)]
    assert progress == [(i + 1, 6 * len(STAGES)) for i in range(6 * len(STAGES))]
    drawn.clear()
    events_of(studio.draw(request(prompts=prompts, compare=True, previews=False)))
    assert drawn == in_turns  # it is warm


def test_warming_up_gives_way_to_visitors(studio):
    first = studio.draw(request(prompts=PROMPTS * 50))
    next(event for event in first if isinstance(event, Progress))
    studio.warm_up(PROMPTS[:1], preset_config("original", PATCH_NUMS), 3)
    second = studio.draw(request())
    assert next(second) == Waiting(2)
    first.close()
    assert isinstance(events_of(second)[-1], Drawn)
    assert studio._warm == set()
    studio.warm_up(PROMPTS[:1], preset_config("original", PATCH_NUMS), 3)
    deadline = time.monotonic() + 30
    while len(studio._warm) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(studio._warm) == 2


def test_the_model_is_left_as_it_was(studio):
    model = studio.pipeline.model
    model.set_cache_config(CacheConfig(threshold=0.33))
    model.use_cache = False
    events_of(studio.draw(request(compare=True)))
    assert model.cache_config == CacheConfig(threshold=0.33)
    assert model.use_cache is False


def test_warnings_become_notes(studio):
    config = CacheConfig(skip_stages=[64], cache_stages=[16])
    unfed = DrawRequest(PROMPTS[:1], GenerationOptions(), "custom", config)
    drawn = events_of(studio.draw(unfed))[-1]
    assert any("skip stages 64 will be computed" in note for note in drawn.notes)
    assert any("cache_stages" in reason for reason in drawn.runs[0].reasons)


@pytest.mark.slow
def test_several_at_once_get_what_they_get_alone(studio):
    alone = {seed: events_of(studio.draw(request(seed=seed)))[-1] for seed in (1, 2, 3)}
    together = {}

    def visit(seed):
        together[seed] = events_of(studio.draw(request(seed=seed)))[-1]

    visitors = [threading.Thread(target=visit, args=(seed,)) for seed in alone]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(60)
    for seed, drawn in alone.items():
        pairs = zip(drawn.runs[0].results, together[seed].runs[0].results, strict=True)
        assert all(same(a.image, b.image) for a, b in pairs)


def test_closing_ends_a_drawing_and_frees_the_model(studio):
    iterator = studio.draw(request(prompts=PROMPTS * 50))
    next(event for event in iterator if event is not None)
    iterator.close()
    # Another 49 batches would take far longer than one: the model is free after one more stage.
    assert isinstance(events_of(studio.draw(request()))[-1], Drawn)
    assert studio.pipeline.model.cache_statistics.images == len(PROMPTS)


def test_closing_while_waiting_leaves_the_queue(studio):
    drawing = studio.draw(request(prompts=PROMPTS * 50))
    next(event for event in drawing if isinstance(event, Progress))
    waiting = studio.draw(request(seed=9))
    assert next(waiting) == Waiting(1)
    assert studio._worker.waiting == 1
    waiting.close()
    assert studio._worker.waiting == 0
    drawing.close()
    assert events_of(studio.restore()) == []  # its turn comes after that of the closed one
    assert studio.pipeline.model.cache_statistics.images < 2 * len(PROMPTS) * 50


def test_unsafe_prompts_are_refused_before_anything_is_drawn(pipeline):
    studio = Studio(pipeline, is_unsafe=lambda prompt: "boats" in prompt)
    iterator = studio.draw(request())
    with pytest.raises(UnsafePromptError, match="Prompt 2 was refused by the safety check"):
        events_of(iterator)
    calibration = CalibrationRequest(PROMPTS, GenerationOptions())
    with pytest.raises(UnsafePromptError):
        events_of(studio.calibrate(calibration))
    assert pipeline.model.cache_statistics.images == 0
    assert isinstance(events_of(studio.draw(request(prompts=PROMPTS[:1])))[-1], Drawn)


# Calibration


@pytest.mark.parametrize(("add", "images"), [(False, 2), (True, 4)])
def test_a_calibration_starts_from_nothing_or_adds(studio, add, images):
    events = events_of(studio.calibrate(CalibrationRequest(PROMPTS, GenerationOptions(), add)))
    assert isinstance(events[-1], Calibrated)
    assert events[-1].tables.images == images
    assert studio.pipeline.model.similarity == events[-1].tables
    assert [event.done for event in events[:-1]] == list(range(1, len(STAGES) + 1))
    assert events_of(studio.restore()) == []
    assert studio.pipeline.model.similarity.images == 2
    assert studio.pipeline.model.similarity.attn[0][0] == 0.9


def test_a_calibration_that_is_closed_leaves_the_table(studio):
    before = studio.pipeline.model.similarity
    iterator = studio.calibrate(CalibrationRequest(PROMPTS * 20, GenerationOptions()))
    seen = 0
    while seen < len(STAGES) + 2:  # into the second batch
        seen += next(iterator) is not None
    iterator.close()
    events_of(studio.draw(request()))  # after the calibration has ended
    assert studio.pipeline.model.similarity is before
    assert studio.pipeline.model.calibration is False
    assert before.images == 2
