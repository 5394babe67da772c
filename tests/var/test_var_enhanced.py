"""VAR with feature caching: off is the plain model, reuse and calibration are the reference's."""

from __future__ import annotations

import argparse

import pytest
import torch

from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity import SimilarityTables
from tests.golden_data import load_case
from tests.product import KINDS, PRESETS, product
from tests.tiny_models import fill
from tests.var.checkpoint import DEPTH, PATCH_NUMS, STAGES, golden_model

CASE = load_case("var-small")
TABLE_TOLERANCE = 2e-5
REUSE_TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def models():
    return golden_model(), golden_model(VARForC2IEnhanced)


@pytest.fixture
def model(models):
    enhanced = models[1]
    enhanced.set_cache_config("no-cache")
    enhanced.similarity = SimilarityTables.empty(DEPTH, enhanced.schedule)
    enhanced.reset_cache_statistics()
    return enhanced


def feature_map(model, run):
    call = dict(CASE.meta["e2e"][run]["call"])
    torch.manual_seed(CASE.meta["e2e"][run]["torch.manual_seed"])
    return model.generate_feature_map(call.pop("B"), call.pop("label_B"), **call)


def test_off_is_the_plain_model_bit_for_bit(models, model):
    assert feature_map(model, "r2").equal(feature_map(models[0], "r2"))
    assert list(model.state_dict()) == list(models[0].state_dict())


def test_reuse_is_the_public_rule(model):
    """Run r7: these module outputs are the previous stage's, resized."""
    reused = {
        "attn": {(0, 4), (1, 4), (0, 5), (1, 5)},
        "mlp": {(0, 2), (1, 5)},
    }
    for site, entries in reused.items():
        for layer, si in entries:
            model.similarity.site(site)[layer][si - 1] = 0.9
    model.set_cache_config(CacheConfig(STAGES[1:], STAGES[:-1]))
    f_hat = feature_map(model, "r7_reuse")
    expected = CASE.outputs["e2e.r7_reuse.f_hat_s5"]
    torch.testing.assert_close(f_hat, expected, atol=REUSE_TOLERANCE, rtol=0)
    stages = model.get_cache_statistics()["stages"]
    for si, length in enumerate(STAGES):
        for site, entries in reused.items():
            count = sum(at == si for _, at in entries)
            assert stages[str(length)][site]["reused"] == count, (length, site)


def test_calibration_is_the_public_table(model):
    model.calibration = True
    try:
        feature_map(model, "r2")
        for site in ("attn", "mlp"):
            near_table(model.similarity.site(site), CASE.outputs[f"sim.r2.table_{site}"])
        feature_map(model, "r4")
        assert model.similarity.images == 2 + 3
    finally:
        model.calibration = False
    weights = (2, 3)  # the public mean counts calls, this one images
    for site in ("attn", "mlp"):
        parts = [CASE.outputs[f"sim.{run}.table_{site}"] for run in ("r2", "r4")]
        mean = sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights)
        near_table(model.similarity.site(site), mean)


def near_table(table, expected):
    actual = torch.tensor(table)[:, : expected.shape[1]]
    torch.testing.assert_close(actual, expected, atol=TABLE_TOLERANCE, rtol=0)


@product(len(KINDS), preset=PRESETS)
def test_presets_mean_the_last_stages(model, preset):
    fill(model, 0.95)
    model.set_cache_config(preset)
    if model.cache_config.adaptive_threshold:
        for site in SITES:  # any image is calmer than this, and no threshold passes it
            model.similarity.site(site)[0][:] = [-0.99] * model.schedule.width
    feature_map(model, "r1")
    config, statistics = model.cache_config, model.get_cache_statistics()
    skips = preset_config(preset, PATCH_NUMS).skip_stages
    assert config.skip_stages == skips
    for length, sites in statistics["stages"].items():
        for site, counts in sites.items():
            on = int(length) in skips and site in config.enabled_sites
            most = DEPTH - (config.adaptive_threshold or 0 in config.computed_layers(site))
            assert counts["reused"] == (most if on else 0)
    assert (statistics["saved_share"] > 0) == bool(config.enabled_sites)
    assert model.cache_attn == model.cache_mlp == [None] * DEPTH


def test_statistics_count_the_classes_token_not_a_text(model):
    feature_map(model, "r1")
    counts = model.get_cache_statistics()["stages"]
    C, hidden = 64, 256
    attention = 2 * DEPTH * (4 * C * C + 2 * C)  # two rows, one token, one key
    assert counts["1"]["attn"]["multiply_adds_computed"] == attention
    assert counts["1"]["mlp"]["multiply_adds_computed"] == 2 * DEPTH * 2 * C * hidden


def test_arguments_and_configuration(tmp_path, model):
    parser = VARForC2IEnhanced.add_cache_arguments(argparse.ArgumentParser())
    args = parser.parse_args(["--cache-preset", "aggressive"])
    args.model_path = str(model.config.name_or_path)
    loaded = VARForC2IEnhanced.from_args_and_config(args, model.config)
    assert loaded.cache_config == preset_config("aggressive", PATCH_NUMS)
    assert loaded.head.weight.equal(model.head.weight)

    loaded.save_pretrained(tmp_path)
    again = VARForC2IEnhanced.from_pretrained(tmp_path)
    assert again.cache_config == loaded.cache_config
    assert again.blocks[1].ffn.fc1.weight.equal(model.blocks[1].ffn.fc1.weight)


@pytest.mark.parametrize("stage", [1, -1])
def test_guidance_can_end_early(model, stage):
    """The first stage has none anyway: ending it at the second leaves the scale no effect."""
    model.set_cache_config(CacheConfig(guidance_stop_stage=model.schedule.lengths[stage]))
    maps = [model.generate_feature_map(2, torch.tensor([1, 2]), 5, cfg) for cfg in (0.0, 4.0)]
    assert torch.isfinite(maps[1]).all()
    assert torch.allclose(maps[0], maps[1]) == (stage == 1)
