"""What a visitor may ask for, and what is said where it is something else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.modules.networks.caching.stages import StageSchedule
from hart.web.requests import (
    changed_config,
    config_fields,
    read_options,
    read_prompts,
    read_target,
)

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


def changed(base="no-cache", **fields) -> CacheConfig:
    values = {"stages": [], "sites": ["attn"], "threshold": 0.7, "adaptive": False}
    values |= {"interpolation": "bilinear", **fields}
    return changed_config(preset_config(base, SCHEDULE.patch_nums), SCHEDULE, **values)


def test_stages_are_fed_by_those_before_them():
    config = changed_config(CacheConfig(), SCHEDULE, [64, 16], ["mlp"], 0.55, True, "nearest")
    assert config == CacheConfig((16, 64), (9, 36), False, True, 0.55, True, "nearest")


def test_nothing_chosen_is_off():
    assert not changed(sites=[]).caches_anything


@pytest.mark.parametrize("name", CACHE_PRESETS)
def test_the_fields_change_a_preset_and_keep_the_rest_of_it(name):
    preset = preset_config(name, SCHEDULE.patch_nums)
    fields = config_fields(preset)
    assert changed_config(preset, SCHEDULE, *fields) == preset
    fields[2] = 0.79
    assert changed_config(preset, SCHEDULE, *fields) == replace(preset, threshold=0.79)
    fields[0] = [4]
    moved = replace(preset, threshold=0.79, skip_stages=[4], cache_stages=[1])
    assert changed_config(preset, SCHEDULE, *fields) == moved


@pytest.mark.parametrize(
    ("fields", "words"),
    [
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
def test_fields_that_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        changed(**fields)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_latency", 0.5, "Unknown target 'max_latency'"),
        (None, 0.5, "Unknown target None"),
        ("min_ssim", "much", "The target must be a number from 0 to 1"),
        ("target_saved", 1.5, "a number from 0 to 1, got 1.5"),
        ("target_saved", math.nan, "The target must be a number"),
    ],
)
def test_targets_that_are_refused(name, value, words):
    with pytest.raises(ValueError, match=words):
        read_target(name, value)
