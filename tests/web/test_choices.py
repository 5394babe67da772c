"""What can be drawn with, and what a picture's file says about that."""

from __future__ import annotations

import json

import pytest

from hart.modules.networks.caching.plan_files import StoredPlan
from hart.modules.networks.caching.presets import CACHE_PRESETS, QUALITY_LEVELS, preset_config
from hart.modules.networks.caching.tuned_config import tuned_config
from hart.web.choices import CUSTOM, GIVEN, TUNED, Choices
from tests.pipeline.checkpoint_folder import DEPTH, PATCH_NUMS


def a_plan(pipeline) -> StoredPlan:
    reused = {(5, 0), (5, 1), (4, 0)}
    config = tuned_config(pipeline.model.schedule, DEPTH, reused, {5: 0.25}, 5)
    return StoredPlan(config, measured={"speedup": 2.14, "saved_share": 0.5, "ssim": 0.951})


@pytest.fixture
def choices(pipeline) -> Choices:
    return Choices(pipeline, a_plan(pipeline))


def test_levels_are_presets_unless_the_checkpoint_has_plans(choices, pipeline):
    levels = {name: preset_config(preset, PATCH_NUMS) for name, preset in QUALITY_LEVELS.items()}
    assert choices.qualities == {**levels, GIVEN: a_plan(pipeline).config}
    assert choices.first == GIVEN
    assert Choices(pipeline).first == "balanced"
    assert Choices(pipeline, first="fast").first == "fast"
    assert set(choices.bases) == {*CACHE_PRESETS, GIVEN}


def test_a_plan_fills_the_fields_and_says_what_was_measured(choices, pipeline):
    assert choices.base_of(GIVEN) == GIVEN
    fields = choices.fields(GIVEN)
    assert fields == [[36, 64], ["attn", "mlp"], 0.7, False, "bilinear"]
    assert choices.words(GIVEN) == (
        "2.1 times as fast as without caching, 50% of the work saved, a likeness (SSIM) of 0.951: "
        "measured when the plan was made."
    )
    assert choices.read(GIVEN, "original", *fields) == (GIVEN, a_plan(pipeline).config)
    name, config = choices.read(CUSTOM, GIVEN, *fields)
    assert name == CUSTOM
    assert (config.prune_stages, config.guidance_stop_stage) == (((64, 0.25),), 64)


def test_names_tell_what_is_drawn_with(choices):
    fields = choices.fields("hybrid")
    assert choices.read("lossless", "x")[0] == "no-cache"
    assert choices.read(CUSTOM, "hybrid", *fields)[0] == "hybrid"
    fields[2] = 0.79
    assert choices.read(CUSTOM, "hybrid", *fields)[0] == CUSTOM
    with pytest.raises(ValueError, match="Unknown quality 'tuned'"):
        choices.read(TUNED, "hybrid", *fields)
    with pytest.raises(ValueError, match="Unknown preset"):
        choices.read(CUSTOM, ["hybrid"], *fields)


@pytest.mark.parametrize(
    ("drawn_with", "quality", "base"),
    [
        ("no-cache", "lossless", "no-cache"),
        ("original", "balanced", "original"),
        ("hybrid", CUSTOM, "hybrid"),
        (GIVEN, GIVEN, GIVEN),
    ],
)
def test_a_picture_says_how_it_was_drawn(choices, pipeline, drawn_with, quality, base):
    plan = a_plan(pipeline)
    if drawn_with == GIVEN:
        pipeline.set_plan(plan)
    else:
        pipeline.model.set_cache_config(drawn_with)
    (result,) = pipeline("two boats", seed=7, cfg_scale=3.5, quiet=True).results
    values = choices.restored(json.dumps(result.metadata))
    assert values[:5] == ["two boats", 7, 3.5, quality, base]
    name, config = choices.read(*values[3:])
    expected = plan.config if drawn_with == GIVEN else preset_config(drawn_with, PATCH_NUMS)
    assert (config, name) == (expected, "no-cache" if quality == "lossless" else name)


@pytest.mark.parametrize(
    "recipe",
    [None, "", "[]", "{}", "[" * 100_000, '{"prompt": "a", "seed": "x"}', {"seed": "1"}],
)
def test_other_files_say_nothing(choices, recipe):
    with pytest.raises(ValueError, match="does not say how it was drawn"):
        choices.restored(recipe)


def test_settings_without_fields_are_refused(choices, pipeline):
    config = preset_config("hybrid", PATCH_NUMS).to_dict() | {"guidance_stop_stage": 9}
    texts = {"prompt": "a", "seed": "1", "cfg_scale": "4.5", "cache_config": json.dumps(config)}
    with pytest.raises(ValueError, match="settings that the page has no fields for"):
        choices.restored(json.dumps(texts))
