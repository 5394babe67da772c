"""What a visitor may ask for, and what is said where it is something else."""

from __future__ import annotations

import math

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
        (None, 4.5, "The seed must be a number"),
        ("7", 4.5, "The seed must be a number"),
        (True, 4.5, "The seed must be a number"),
        (-1, 4.5, "from 0 to 9007199254740991, got -1"),
        (1.5, 4.5, "whole number"),
        (2.0**53, 4.5, "whole number from 0 to"),
        (1, None, "The guidance scale must be a number"),
        (1, math.nan, "The guidance scale must be a number"),
        (1, math.inf, "The guidance scale must be a number"),
        (1, -0.1, "within 0 and 30, got -0.1"),
        (1, 31, "within 0 and 30, got 31"),
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


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"preset": "fastest"}, "Unknown preset 'fastest'"),
        ({"preset": None}, "Unknown preset None"),
        ({"stages": [1]}, "Stage 1 cannot reuse; the stages that can are 4, 9, 16, 36, 64"),
        ({"stages": [100]}, "Stage 100 cannot reuse"),
        ({"stages": ["<b>"]}, "list of stages must be a number"),
        ({"sites": ["norm"]}, "Unknown site 'norm'; choose from attn, mlp"),
        ({"threshold": 1.2}, "within 0 and 1, got 1.2"),
        ({"threshold": None}, "The threshold must be a number"),
        ({"interpolation": "cubic"}, "interpolation_mode must be one of"),
    ],
)
def test_custom_caching_that_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        read_config(**{"preset": CUSTOM, "schedule": SCHEDULE, "sites": ["attn"], **fields})
