"""What is measured is what real draws give, whoever measures it and however often it stops."""

from __future__ import annotations

import json

import pytest
import torch

from hart.engine import Engine
from hart.pipeline import VARPipeline
from hart.tuning.measurements import Measurements, MeasurementsError
from hart.tuning.measuring import begin, measure
from hart.tuning.replay import Replay, map_errors
from hart.tuning.selection import Selection, most_reused, options
from tests.tuning.conftest import PROMPTS
from tests.var.checkpoint import make_var_checkpoint

MODULES = 6
SELECTIONS = {
    "reuse": Selection((0, 0, 2, 1, 0, 1)),
    "pruned by module": Selection((0,) * MODULES, (0.5,)),
    "pruned by stage": Selection((0,) * MODULES, (0.25, 0.5), "stage"),
    "unguided": Selection((0,) * MODULES, unguided=2),
    "everything": Selection((1, 0, 2, 1, 0, 1), (0.5, 0.75), "stage", 1),
}


def replay_of(pipeline, prompts) -> Replay:
    schedule = pipeline.transformer.schedule
    first = schedule.num_stages - most_reused(schedule)
    return Replay(pipeline, pipeline.requests(prompts), {}, first)


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_replay_is_what_a_whole_draw_gives(pipeline, name):
    replay, model = replay_of(pipeline, PROMPTS), pipeline.transformer
    config = SELECTIONS[name].config(model.schedule)
    first = replay.draw(config)
    model.set_cache_config(config)
    try:
        whole = pipeline.feature_map(pipeline.requests(PROMPTS), Engine(model))
    finally:
        model.set_cache_config("no-cache")
    torch.testing.assert_close(first, whole, atol=1e-5, rtol=1e-5)
    assert map_errors(first, replay.reference)[0] > 1e-6
    assert torch.equal(replay.draw(config), first)  # nothing that it began with has changed


def test_the_reference_is_the_uncached_draw(pipeline):
    drawn = pipeline.feature_map(pipeline.requests(PROMPTS), Engine(pipeline.transformer))
    assert torch.equal(replay_of(pipeline, PROMPTS).reference, drawn)


def test_classes_are_measured_as_prompts_are(tmp_path):
    pipeline = VARPipeline.from_pretrained(make_var_checkpoint(tmp_path / "var"), device="cpu")
    replay, model = replay_of(pipeline, [3, 7]), pipeline.transformer
    config = Selection((1, 0, 2, 1), (0.5,), "stage", 1).config(model.schedule)
    model.set_cache_config(config)
    whole = pipeline.feature_map(pipeline.requests([3, 7]), Engine(model))
    torch.testing.assert_close(replay.draw(config), whole, atol=1e-5, rtol=1e-5)


def test_every_option_is_measured_on_every_image(pipeline, measured):
    model = pipeline.transformer
    assert set(measured.errors) == set(options(model.schedule, model.depth))
    assert {error.images for error in measured.errors.values()} == {len(PROMPTS)}
    later, earlier = (measured.errors[f"attn 1 last {n}"].mean for n in (1, 2))
    assert earlier > later > 0
    assert measured.errors["prune 0.75 by stage"].mean > measured.errors["prune 0.25 by stage"].mean


def test_an_interrupted_measurement_goes_on(pipeline, measured):
    half = begin(pipeline)
    names = list(measured.errors)
    stopped = iter(range(10))

    class StoppedError(Exception):
        pass

    def stop_in_the_middle(found) -> None:
        if next(stopped) == 5:
            raise StoppedError

    import hart.tuning.measuring as module

    before, module.SAVED_EVERY_S = module.SAVED_EVERY_S, -1.0
    try:
        with pytest.raises(StoppedError):
            measure(pipeline, PROMPTS, measurements=half, save=stop_in_the_middle, quiet=True)
    finally:
        module.SAVED_EVERY_S = before
    assert 0 < len(half.errors) < len(names)
    found = measure(pipeline, PROMPTS, measurements=half, quiet=True)
    assert found.errors == measured.errors


def test_measurements_of_other_images_add_up(pipeline, measured):
    parts = [
        measure(pipeline, [prompt], quiet=True, batch_size=1, seed=1 + i)
        for i, prompt in enumerate(PROMPTS)
    ]
    both = parts[0].merged(parts[1])
    for name, error in measured.errors.items():
        assert both.errors[name].images == 2
        assert both.errors[name].mean == pytest.approx(error.mean, rel=1e-3)
    with pytest.raises(ValueError, match="another settings"):
        measured.merged(measure(pipeline, PROMPTS[:1], quiet=True, cfg_scale=2.0))


def test_a_file_gives_back_what_was_measured(measured, tmp_path):
    measured.save(tmp_path / "new" / "m.json")
    found = Measurements.load(tmp_path / "new" / "m.json")
    assert (found.errors, found.shape, found.settings) == (
        measured.errors,
        measured.shape,
        measured.settings,
    )


DAMAGE = {
    "format": ("other", "expected format"),
    "errors": ({"no option": [1, 1.0, 1.0]}, "is no option of this model"),
    "shape": ({}, "depth is missing"),
    "seconds": ({"other_s": 1}, "base_s is missing"),
    "pictures": ([{"ssim": 1}], "map_error is missing"),
    "memory_bytes": (-1, "memory_bytes must be a number from 0"),
}


@pytest.mark.parametrize("key", DAMAGE)
def test_damaged_files_are_refused(measured, tmp_path, key):
    file = tmp_path / "m.json"
    measured.save(file)
    value, message = DAMAGE[key]
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(MeasurementsError, match=message):
        Measurements.load(file)
