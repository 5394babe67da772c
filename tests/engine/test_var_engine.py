"""The executor on VAR: the same maps as blocks that are called, whatever is cached."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hart.engine import Engine
from hart.modules.models.transformer.configuration_var import VARForC2IConfig
from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from hart.modules.networks.caching.config import CacheConfig
from tests.engine.comparison import Called, Recorded, assert_same_maps, assert_same_steps
from tests.product import KINDS, PRESETS, product
from tests.tiny_models import fill, generators
from tests.var.checkpoint import PATCH_NUMS, golden_model, golden_vae


def var_model(shared_aln: bool):
    """The golden checkpoint has a modulation of its own in every block; the other is random."""
    if not shared_aln:
        return golden_model(VARForC2IEnhanced)
    torch.manual_seed(3)
    config = VARForC2IConfig(
        num_classes=10,
        depth=2,
        embed_dim=64,
        num_heads=4,
        patch_nums=PATCH_NUMS,
        shared_aln=True,
        vocab_size=160,
        z_channels=16,
    )
    model = VARForC2IEnhanced(config).eval()
    model.init_weights(init_adaln_gamma=0.5)
    model.attach_autoencoder(golden_vae())
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["separate-adaln", "shared-adaln"])
def model(request):
    model = var_model(request.param)
    fill(model, 0.95)
    return model


def draw(model, steps, bsz: int, **options) -> tuple[torch.Tensor, Recorded]:
    recorded = Recorded(steps)
    labels = [(3 * i + 1) % model.num_classes for i in range(bsz)]
    f_hat = model.generate_feature_map(
        bsz, labels, cfg=3.0, generator=generators(bsz), steps=recorded, **options
    )
    return f_hat, recorded


def assert_same(model, bsz: int, **options) -> None:
    plain, by_blocks = draw(model, Called(model), bsz, **options)
    for steps in (model, Engine(model)):
        fast, by_executor = draw(model, steps, bsz, **options)
        assert_same_steps(by_executor, by_blocks)
        assert_same_maps(fast, plain)


@product(len(KINDS), preset=PRESETS, bsz=[1, 3])
def test_every_preset_draws_the_same(model, preset, bsz):
    model.set_cache_config(preset)
    assert_same(model, bsz)


@pytest.mark.parametrize("stop", [0, 3, -1])
def test_guidance_that_ends_early(model, stop):
    model.set_cache_config("aggressive")
    length = model.schedule.lengths[stop]
    model.set_cache_config(replace(model.cache_config, guidance_stop_stage=length))
    assert_same(model, 2)


def test_reuse_from_the_first_stage_on(model):
    """The class's own token is a stage like the others, and its outputs can be reused."""
    lengths = model.schedule.lengths
    model.set_cache_config("original")
    model.set_cache_config(
        replace(model.cache_config, skip_stages=lengths[1:], cache_stages=lengths[:-1])
    )
    assert_same(model, 2)
    assert model.decision_plan().reused("attn") == model.depth * (len(lengths) - 1)


def test_an_adaptive_threshold_from_the_first_stage_on(model):
    lengths = model.schedule.lengths
    model.set_cache_config(
        CacheConfig(lengths[1:], lengths[:-1], threshold=0.2, adaptive_threshold=True)
    )
    assert_same(model, 2)


def test_calibration_draws_what_caching_off_draws(model):
    table = model.similarity
    try:
        model.set_cache_config("no-cache")
        off, _ = draw(model, Engine(model), 2)
        model.calibration = True
        measured = []
        for steps in (Called(model), Engine(model)):
            model.clear_similarity_data()
            f_hat, _ = draw(model, steps, 2)
            measured.append(model.similarity)
        assert f_hat.equal(off)
        for site in ("attn", "mlp"):
            plain, fast = (torch.tensor(tables.site(site)) for tables in measured)
            assert plain.any()
            assert torch.allclose(fast, plain, atol=1e-5)
    finally:
        model.calibration, model.similarity = False, table
