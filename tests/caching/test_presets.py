"""The preset table of the documentation, on any schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.modules.networks.caching.stages import StageSchedule

HART_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
LENGTHS = tuple(side * side for side in HART_1024)


def test_all_documented_names_exist_in_the_documented_order():
    assert list(CACHE_PRESETS) == [
        "no-cache", "conservative", "original", "aggressive", "ultra-fast", "attn-only", "mlp-only",
        "high-quality", "memory-efficient", "fastvar", "hybrid",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "last", "attn", "mlp", "threshold", "adaptive", "mode"),
    [
        ("no-cache", 0, False, False, 0.7, False, "bilinear"),
        ("conservative", 1, True, True, 0.8, False, "bilinear"),
        ("original", 2, True, True, 0.7, False, "bilinear"),
        ("aggressive", 4, True, True, 0.6, False, "bilinear"),
        ("ultra-fast", 6, True, True, 0.5, True, "bilinear"),
        ("attn-only", 2, True, False, 0.7, False, "bilinear"),
        ("mlp-only", 2, False, True, 0.7, False, "bilinear"),
        ("high-quality", 1, True, True, 0.9, False, "bicubic"),
        ("memory-efficient", 1, True, False, 0.8, False, "bilinear"),
    ],
)
def test_each_preset_is_the_row_of_the_table(name, last, attn, mlp, threshold, adaptive, mode):
    first = len(LENGTHS) - last
    expected = CacheConfig(
        LENGTHS[first:], LENGTHS[first - 1 : -1], attn, mlp, threshold, adaptive, mode,
        compute_mlp_layers=[0] if mlp else [],
    )  # fmt: skip
    assert preset_config(name, HART_1024) == expected


def test_original_at_1024_pixels_skips_the_last_two_stages_from_their_predecessors():
    config = preset_config("original", HART_1024)
    assert config.skip_stages == (2304, 4096)
    assert config.cache_stages == (1296, 2304)


@pytest.mark.parametrize(("stages", "aggressive", "ultra_fast"), [(14, 4, 6), (9, 3, 4), (2, 1, 1)])
def test_a_short_schedule_keeps_the_stages_that_decide_what_is_drawn(
    stages, aggressive, ultra_fast
):
    sides = range(1, stages + 1)
    assert len(preset_config("aggressive", sides).skip_stages) == aggressive
    assert len(preset_config("ultra-fast", sides).skip_stages) == ultra_fast
    assert len(preset_config("original", sides).skip_stages) == min(2, stages - 1)


@pytest.mark.parametrize("name", CACHE_PRESETS)
@pytest.mark.parametrize("sides", [(1, 2), (1, 2, 4, 6, 8), HART_1024])
def test_every_skip_stage_of_a_preset_is_fed_on_every_schedule(name, sides, recwarn):
    config = preset_config(name, list(sides))
    config.warn_about(StageSchedule(sides))
    assert not recwarn.list
    assert 1 not in config.skip_stages
    assert config.caches_anything is (name not in ("no-cache", "fastvar"))
    assert config.changes_anything is (name != "no-cache")


def test_fastvar_prunes_the_published_stages_by_the_published_shares_from_the_stage_before():
    config = preset_config("fastvar", HART_1024)
    assert config.prune_stages == ((2304, 0.5), (4096, 0.75))
    assert config.resolve(StageSchedule(HART_1024)).prune_source == 1296
    assert not config.caches_anything
    assert preset_config("fastvar", (1, 2)).prune_stages == ((4, 0.75),)


def test_hybrid_reuses_and_prunes_the_last_stage_and_ends_guidance_before_it():
    config = preset_config("hybrid", HART_1024)
    last = {"prune_stages": {4096: 0.25}, "guidance_stop_stage": 2304}
    assert config == replace(preset_config("conservative", HART_1024), **last)
    assert preset_config("hybrid", (1, 2, 3)).guidance_stop_stage == 4


def test_every_preset_has_a_one_line_description():
    for preset in CACHE_PRESETS.values():
        assert preset.description
        assert "\n" not in preset.description


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'fast'; known are no-cache, conservative"):
        preset_config("fast", HART_1024)
