"""Leaving out tokens in the whole model: both families, chunks, guidance, keys, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching import generation_cache
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.interpolate import select_positions
from tests.engine.comparison import Called
from tests.product import product
from tests.tiny_models import HART_SIDES, draw, fill, generators, text, tiny_model

GPT2 = {"attn_type": "gpt2", "mlp_type": "gpt2", "use_context_norm": False}
VARIANTS = {
    "llama": {},
    "llama, shared AdaLN": {"shared_aln": True},
    "llama, separate AdaLN": {"disable_aln": False},
    "llama, l2": {"attn_l2_norm": True},
    "gpt2": GPT2,
    "gpt2, separate AdaLN, l2": {**GPT2, "disable_aln": False, "attn_l2_norm": True},
    "llama, gpt2 MLP": {"mlp_type": "gpt2"},
}
PRUNE = {25: 0.5, 49: 0.75}  # keeps 13 of 25 and 13 of 49 tokens
KEPT = {25: 13, 49: 13}


@pytest.fixture
def stages(monkeypatch):
    """Per stage: its index, rows, and keys in the cache per layer, of blocks that are called."""
    seen, original = [], HARTForT2IEnhanced.run_blocks

    def recording(self, x, run, si, m_maskgit=None):
        out = original(self, x, run, si, m_maskgit)
        caches = [run.kv[layer] for layer in range(self.depth)]
        assert all(len(cache.k) == len(cache.v) == len(x) for cache in caches if cache.num_tokens)
        seen.append((si, len(x), [cache.num_tokens for cache in caches]))
        return out

    monkeypatch.setattr(HARTForT2IEnhanced, "run_blocks", recording)
    return seen


def is_clean(model) -> bool:
    empty = [None] * model.depth
    return model.cache_attn == model.cache_mlp == empty and model.caching.running is None


# --- which tokens are computed ------------------------------------------------------------------


@product(3, variant=[*VARIANTS][::-1])
def test_every_variant_computes_the_kept_tokens_only(computed, stages, variant):
    model = tiny_model(HARTForT2IEnhanced, **VARIANTS[variant])
    plain = draw(model, 2)
    for calls in computed.values():
        calls.clear()
    model.set_cache_config(CacheConfig(prune_stages=PRUNE))
    stages.clear()
    image = draw(model, 2)
    assert image.isfinite().all()
    assert not image.equal(plain)
    expected = [n for n in (6, 4, 9, 16, KEPT[25], KEPT[49]) for _ in range(model.depth)]
    assert computed == {"attn": expected, "mlp": expected}
    assert stages[-1][2] == [6 + 4 + 9 + 16 + 13 + 13] * model.depth
    assert is_clean(model)


@pytest.mark.parametrize(
    "config",
    [
        CacheConfig(prune_stages={25: 0.0}),
        CacheConfig(prune_stages={1: 0.5}),
        CacheConfig(prune_stages={49: 0.5}, prune_source=36),
        CacheConfig(guidance_stop_stage=36),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:cache stages", "ignore:prune stages")
def test_what_leaves_out_nothing_is_the_plain_model_bit_for_bit(model, config):
    model.set_cache_config(config)
    assert draw(model, 2).equal(draw(tiny_model(HARTForT2I), 2))


def test_switched_off_or_calibrating_nothing_is_left_out(model):
    plain = draw(model)
    model.set_cache_config(CacheConfig(prune_stages=PRUNE, guidance_stop_stage=16))
    model.use_cache = False
    assert draw(model).equal(plain)
    model.use_cache = model.calibration = True
    assert draw(model).equal(plain)


def test_only_the_enabled_sites_are_pruned(model, computed):
    model.set_cache_config(CacheConfig(enable_attn_cache=False, prune_stages=PRUNE))
    draw(model)
    assert computed["attn"][-1] == 49
    assert computed["mlp"][-1] == KEPT[49]


def test_other_schedules_with_an_earlier_source(computed):
    sides = (1, 3, 4, 6)
    model = tiny_model(HARTForT2IEnhanced, patch_nums=sides)
    model.set_cache_config(CacheConfig(prune_stages={sides[-1] ** 2: 0.5}, prune_source=1))
    draw(model)
    assert computed["mlp"][-1] == sides[-1] ** 2 - sides[-1] ** 2 // 2


def test_a_last_stage_in_chunks_is_pruned_chunk_by_chunk_at_its_own_positions(
    model, stages, monkeypatch
):
    """Each token's output is the source's at its own position, unless it is computed."""
    model.set_cache_config(CacheConfig(prune_stages={49: 0.5}, prune_source=25))
    seen, kept, split = [], [], generation_cache.split_tokens
    original = generation_cache.GenerationCache.output

    def splitting(x, keep):
        kept.append(split(x, keep)[0])
        return kept[-1], None

    def recording(cache, layer, site, si, compute, x, positions):
        out = original(cache, layer, site, si, compute, x, positions)
        if (layer, site, si) == (0, "mlp", 5):
            seen.append((positions, kept[-1], out, cache.store.source(1, 5, positions)))
        return out

    monkeypatch.setattr(generation_cache, "split_tokens", splitting)
    monkeypatch.setattr(generation_cache.GenerationCache, "output", recording)
    draw(model, 2, num_maskgit_iters=3, steps=Called(model))
    assert len(seen) == 3
    covered = torch.cat([chunk[1].view(4, -1) for chunk, *_ in seen], dim=1)
    assert covered.sort(dim=1).values.equal(torch.arange(49).expand(4, -1))
    for (_, positions), kept, out, source in seen:
        tokens = positions.numel() // 4
        assert kept.shape[1] == tokens - tokens // 2
        index = torch.arange(tokens).expand(4, -1)
        left_out = index[~(index[..., None] == kept[:, None]).any(-1)].view(4, -1)
        assert select_positions(out, left_out).equal(select_positions(source, left_out))
        assert not select_positions(out, kept).equal(select_positions(source, kept))


# --- together with reuse ------------------------------------------------------------------------


def test_similar_modules_are_reused_whole_and_the_others_pruned(model, computed):
    fill(model, 0.5)
    for si in (4, 5):
        column = model.schedule.column(si)
        model.similarity.attn[0][column] = model.similarity.mlp[2][column] = 0.9
    model.set_cache_config(
        CacheConfig([25, 49], [16, 25], prune_stages={25: 0.5, 49: 0.75}, compute_mlp_layers=[0])
    )
    plan = model.decision_plan()
    for site in SITES:
        assert [plan.reused(site, si) for si in (4, 5)] == [1, 1]
        assert [plan.pruned(site, si) for si in (4, 5)] == [2, 2]
    draw(model)
    for site in SITES:
        assert computed[site] == [6] * 3 + [4] * 3 + [9] * 3 + [16] * 3 + [13] * 2 + [13] * 2
        for si in (4, 5):
            counts = model.cache_statistics.counts(si, site)
            assert (counts.reused, counts.pruned, counts.computed) == (1, 2, 2)


def test_the_adaptive_thresholds_probe_computes_every_token(model, computed):
    fill(model, 0.5)
    model.set_cache_config(
        CacheConfig([49], [25], threshold=1, adaptive_threshold=True, prune_stages=PRUNE)
    )
    draw(model)
    assert computed["mlp"][-6:-3] == [25, KEPT[25], KEPT[25]]
    assert computed["mlp"][-3:] == [KEPT[49]] * 3  # by then everything is compared


# --- keys of what is not computed ---------------------------------------------------------------


@product(variant=["llama", "gpt2"], iterations=[1, 3])
def test_reused_and_pruned_attentions_add_no_keys(stages, variant, iterations):
    """25 is pruned, 49 reused."""
    model = tiny_model(HARTForT2IEnhanced, **VARIANTS[variant])
    fill(model, 0.9)
    model.set_cache_config(CacheConfig([49], [25], prune_stages={25: 0.5}))
    options = {"num_maskgit_iters": iterations, "steps": Called(model)}
    assert draw(model, 2, **options).isfinite().all()
    assert stages[-1][2] == [6 + 4 + 9 + 16 + 13] * model.depth


# --- guidance that ends early -------------------------------------------------------------------


@product(fields=[{}, GPT2, {"disable_aln": False}], iterations=[1, 3])
def test_no_guidance_at_all_is_a_guidance_scale_of_zero(stages, fields, iterations):
    model = tiny_model(HARTForT2IEnhanced, **fields)
    expected = draw(model, 2, cfg=0.0, num_maskgit_iters=iterations)
    stages.clear()
    model.set_cache_config(CacheConfig(guidance_stop_stage=1))
    found = draw(model, 2, num_maskgit_iters=iterations)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert {rows for _, rows, _ in stages} == {2}


@pytest.mark.parametrize("stop", [16, 49])
def test_from_the_stage_on_only_the_rows_with_text_are_left(model, stages, stop):
    model.set_cache_config(CacheConfig(guidance_stop_stage=stop))
    image = draw(model, 2)
    assert not image.equal(draw(tiny_model(HARTForT2I), 2))
    first = model.schedule.lengths.index(stop)
    assert [rows for _, rows, _ in stages] == [4] * first + [2] * (len(HART_SIDES) - first)


def test_stored_outputs_follow(model, stages):
    """The outputs stored at 25 are halved before 49 uses them; in bytes, too."""
    fill(model, 0.9)
    held = []

    def note(si, num_stages):
        held.append(model.get_cache_statistics()["feature_cache_bytes"]["now"])

    config = CacheConfig(
        [25], [16], prune_stages={49: 0.5}, prune_source=25, guidance_stop_stage=49
    )
    model.set_cache_config(config)
    assert draw(model, 2, callback=note).isfinite().all()
    assert [rows for _, rows, _ in stages] == [4] * 5 + [2]
    sources = 2 * 25 * model.depth * model.C * 4  # of both sites
    assert held[4:] == [4 * sources, 2 * sources]


def test_the_upstream_draws_work_without_guidance(model):
    model.set_cache_config(CacheConfig(guidance_stop_stage=49))
    images = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        images.append(model.autoregressive_infer_cfg(2, g_seed=4, cfg=3.0, **text(model, 2)))
    assert images[0].isfinite().all()
    assert images[0].equal(images[1])


def test_generators_are_not_used_up_differently(model):
    """The noise of an image is the same with and without guidance."""
    used = []
    for stop in (None, 49):
        model.set_cache_config(CacheConfig(guidance_stop_stage=stop))
        own = generators(1)
        model.autoregressive_infer_cfg(1, generator=own, cfg=3.0, **text(model))
        used.append(own[0].get_state())
    assert used[0].equal(used[1])
