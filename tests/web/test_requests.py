"""What a visitor may ask for, and what is said where it is something else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.modules.networks.caching.stages import StageSchedule
from hart.web.requests import CUSTOM, read_config, read_options, read_prompts

SCHEDULE = StageSchedule((1, 2, 3, 4, 6, 8))


def test_a_prompt_is_a_line():
    assert read_prompts(" a fox \n\n\ttwo boats\n", 2) == ["a fox", "two boats"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one prompt"),
        (" \n ", "at least one prompt"),
        (None, "at least one prompt"),
        (7, "The prompts must be text"),
        (["a"], "The prompts must be text"),
        ("a\nb\nc", "3 prompts are too many; this page takes 2"),
        ("a\n" + "b" * 5000, "Prompt 2 has 5000 characters; at most 4000"),
    ],
)
def test_prompts_that_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        read_prompts(text, 2)


def test_numbers_as_a_browser_sends_them():
    options = read_options(7.0, 3)
    assert (options.seed, options.cfg_scale) == (7, 3.0)
    assert isinstance(options.seed, int)


@pytest.mark.parametrize(
    ("seed", "scale", "words"),
    [
        (None, 4.5, "The seed must be a whole number"),
        ("7", 4.5, "The seed must be a whole number"),
        (True, 4.5, "The seed must be a whole number"),
        (-1, 4.5, "from 0 to 9007199254740991, got -1"),
        (1.5, 4.5, "whole number"),
        (2.0**53, 4.5, "whole number from 0 to"),
        (10**400, 4.5, "whole number from 0 to 9007199254740991, got 1000"),
        (-(10**400), 4.5, "got -1000"),
        (math.nan, 4.5, "The seed must be a whole number"),
        ([7], 4.5, "The seed must be a whole number"),
        (1, 10**400, "a number from 0 to 30, got 1000"),
        (1, None, "The guidance scale must be a number"),
        (1, math.nan, "The guidance scale must be a number"),
        (1, math.inf, "The guidance scale must be a number"),
        (1, -0.1, "a number from 0 to 30, got -0.1"),
        (1, 31, "a number from 0 to 30, got 31"),
    ],
)
def test_numbers_that_are_refused(seed, scale, words):
    with pytest.raises(ValueError, match=words):
        read_options(seed, scale)


@pytest.mark.parametrize("name", CACHE_PRESETS)
def test_a_preset_is_the_librarys_whatever_the_other_fields_say(name):
    expected = preset_config(name, SCHEDULE.patch_nums)
    assert read_config(name, SCHEDULE, [3], ["nothing"], 99) == expected


def test_custom_stages_are_fed_by_those_before_them():
    config = read_config(CUSTOM, SCHEDULE, [64, 16], ["mlp"], 0.55, True, "nearest")
    assert config == CacheConfig((16, 64), (9, 36), False, True, 0.55, True, "nearest")


def test_custom_with_nothing_chosen_is_off():
    assert not read_config(CUSTOM, SCHEDULE, [], []).caches_anything


@pytest.mark.parametrize("name", CACHE_PRESETS)
def test_custom_caching_changes_a_preset_and_keeps_the_rest_of_it(name):
    preset = preset_config(name, SCHEDULE.patch_nums)
    fields = [list(preset.skip_stages), list(preset.enabled_sites), preset.threshold]
    fields += [preset.adaptive_threshold, preset.interpolation_mode]
    assert read_config(CUSTOM, SCHEDULE, *fields, name) == preset
    fields[2] = 0.79
    assert read_config(CUSTOM, SCHEDULE, *fields, name) == replace(preset, threshold=0.79)
    fields[0] = [4]
    moved = replace(preset, threshold=0.79, skip_stages=[4], cache_stages=[1])
    assert read_config(CUSTOM, SCHEDULE, *fields, name) == moved


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"preset": "fastest"}, "Unknown preset 'fastest'"),
        ({"preset": None}, "Unknown preset None"),
        ({"preset": ["original"]}, "Unknown preset"),
        ({"base": "fastest"}, "Unknown preset 'fastest'"),
        ({"base": {}}, "Unknown preset"),
        ({"stages": None}, "stages must be a list"),
        ({"sites": "attn"}, "sites must be a list"),
        ({"stages": [10**400]}, "Stage 1000.* cannot reuse"),
        ({"threshold": 10**400}, "a number from 0 to 1, got 1000"),
        ({"adaptive": "yes"}, "must be true or false"),
        ({"stages": [1]}, "Stage 1 cannot reuse; the stages that can are 4, 9, 16, 36, 64"),
        ({"stages": [100]}, "Stage 100 cannot reuse"),
        ({"stages": ["<b>"]}, "Stage '<b>' cannot reuse"),
        ({"sites": ["norm"]}, "Unknown site 'norm'; choose from attn, mlp"),
        ({"threshold": 1.2}, "a number from 0 to 1, got 1.2"),
        ({"threshold": None}, "The threshold must be a number"),
        ({"interpolation": "cubic"}, "interpolation_mode must be one of"),
    ],
)
def test_custom_caching_that_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        read_config(**{"preset": CUSTOM, "schedule": SCHEDULE, "sites": ["attn"], **fields})
