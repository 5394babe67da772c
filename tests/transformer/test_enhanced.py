"""Feature caching in the whole model: what is reused, what never changes, what is left behind."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import replace

import pytest
import torch

from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.similarity import SimilarityTables
from tests.product import KINDS, PRESETS, product
from tests.tiny_models import HART_SIDES, draw, fill, generators, text, tiny_model

ALL_STAGES = tuple(side**2 for side in HART_SIDES)
EVERYTHING = CacheConfig(ALL_STAGES[1:], ALL_STAGES[:-1], threshold=0.0)
ADAPTIVE = CacheConfig([49], [25], threshold=0.55, adaptive_threshold=True)


def is_clean(model) -> bool:
    return (
        model.cache_attn == [None] * model.depth
        and model.cache_mlp == [None] * model.depth
        and model.caching.running is None
    )


@pytest.mark.parametrize("how", ["use_cache", "sites", "no table"])
def test_every_way_of_switching_off_is_bit_equal(model, how):
    expected = draw(model, 2)
    if how == "use_cache":
        fill(model, 1.0)
        model.set_cache_config(EVERYTHING)
        model.use_cache = False
    elif how == "sites":
        fill(model, 1.0)
        model.set_cache_config(
            CacheConfig(ALL_STAGES[1:], ALL_STAGES[:-1], False, False, threshold=0.0)
        )
    else:
        model.set_cache_config(EVERYTHING)
    if how == "no table":
        with pytest.warns(UserWarning, match="table is empty"):
            assert draw(model, 2).equal(expected)
    else:
        assert draw(model, 2).equal(expected)


def test_calibration_changes_no_image_and_measures_every_transition(model):
    expected = draw(model, 2)
    model.calibration = True
    assert draw(model, 2).equal(expected)
    columns = model.schedule.columns
    for site in SITES:
        for row in model.similarity.site(site):
            assert all(-1 <= row[c] <= 1 and row[c] != 0 for c in columns)
            assert all(row[c] == 0 for c in range(len(row)) if c not in columns)
    assert model.similarity.images == 2
    assert is_clean(model)


def test_calibration_averages_over_images_whatever_the_batches(model):
    model.calibration = True
    draw(model, 3)
    together = copy.deepcopy(model.similarity)
    model.similarity = SimilarityTables.empty(model.depth, model.schedule)
    whole = text(model, 3)
    for i in range(3):
        one = {name: tensor[i : i + 1] for name, tensor in whole.items()}
        draw(model, 1, seed=100 + i, **one)
    assert model.similarity.images == together.images == 3
    for site in SITES:
        torch.testing.assert_close(
            torch.tensor(model.similarity.site(site)),
            torch.tensor(together.site(site)),
            atol=1e-5,
            rtol=0,
        )


def test_everything_similar_reuses_exactly_what_the_plan_says(model, computed):
    fill(model, 1.0)
    model.set_cache_config(EVERYTHING)
    plan = model.decision_plan()
    draw(model)
    stages = len(HART_SIDES)
    for site in SITES:
        assert plan.reused(site) == model.depth * (stages - 1)
        assert len(computed[site]) == model.depth * stages - plan.reused(site)
    for si, length in enumerate(model.schedule.lengths):
        for site in SITES:
            counts = model.cache_statistics.counts(si, site)
            assert counts.reused == plan.reused(site, si), length
            assert counts.stored == plan.stored(site, si), length


def test_text_stage_is_never_mistaken_for_a_map(computed):
    """16 text tokens look like the 4x4 map by their length; only the stage index counts."""
    model = tiny_model(HARTForT2IEnhanced, context_token=16)
    fill(model, 1.0)
    model.set_cache_config(CacheConfig([16], [9], threshold=0.0))
    draw(model)
    assert computed["attn"].count(16) == model.depth  # the text; the map was reused
    assert model.cache_statistics.counts(0, "attn").reused == 0
    assert model.cache_statistics.counts(3, "attn").reused == model.depth


def test_the_1x1_map_is_the_texts_last_position(model, monkeypatch):
    """Stage 4 may be drawn from stage 1; what is stored then is one token, not the text."""
    fill(model, 1.0)
    model.set_cache_config(CacheConfig([4], [1], threshold=0.0))
    seen = []
    original = HARTForT2IEnhanced.run_blocks

    def watching(self, x, run, si, m_maskgit=None):
        out = original(self, x, run, si, m_maskgit)
        seen.append([t if t is None else tuple(t.shape) for t in self.cache_attn])
        return out

    monkeypatch.setattr(HARTForT2IEnhanced, "run_blocks", watching)
    draw(model)
    assert seen[0] == [(2, 1, model.C)] * model.depth
    assert seen[1] == [None] * model.depth


def test_chunks_reuse_the_right_positions(model):
    """With everything reused the blocks add interpolated maps, so chunks must not matter."""
    fill(model, 1.0)
    model.set_cache_config(CacheConfig([49], [25], threshold=0.0))
    outputs = {}
    original = HARTForT2IEnhanced.run_blocks

    def collecting(self, x, run, si, m_maskgit=None):
        before = x.clone()
        out = original(self, x, run, si, m_maskgit)
        if si == 5:
            change = outputs.setdefault(run.options.num_maskgit_iters, torch.zeros(2, 49, self.C))
            positions = torch.ones(2, 49, dtype=bool) if m_maskgit is None else m_maskgit
            change[positions] = (out - before).flatten(0, 1)
        return out

    HARTForT2IEnhanced.run_blocks = collecting
    try:
        draw(model, num_maskgit_iters=1)
        draw(model, num_maskgit_iters=3)
    finally:
        HARTForT2IEnhanced.run_blocks = original
    torch.testing.assert_close(outputs[1], outputs[3], atol=1e-5, rtol=1e-5)
    assert outputs[1].any()


@pytest.mark.parametrize("calibration", [False, True])
def test_failure_in_the_middle_leaves_the_model_clean(model, calibration):
    expected = draw(model, 2)
    fill(model, 1.0)
    tables = copy.deepcopy(model.similarity)
    model.set_cache_config(EVERYTHING)
    model.calibration = calibration

    def interrupt(si, stages):
        if si == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(model, 2, callback=interrupt)
    assert is_clean(model)
    assert model.similarity == tables
    assert all(block.attn.cached_k is None for block in model.blocks)
    model.calibration, model.use_cache = False, False
    assert draw(model, 2).equal(expected)


@product(cached=[False, True], iterations=[1, 2])
def test_images_do_not_depend_on_their_batch(model, cached, iterations):
    if cached:
        fill(model, 1.0)
        model.set_cache_config(CacheConfig([25, 49], [16, 25], threshold=0.0))
    together = draw(model, 3, num_maskgit_iters=iterations)
    whole = text(model, 3)
    for i in range(3):
        one = {name: tensor[i : i + 1] for name, tensor in whole.items()}
        alone = draw(model, 1, seed=100 + i, num_maskgit_iters=iterations, **one)
        torch.testing.assert_close(alone[0], together[i], atol=2e-3, rtol=0)


def test_two_threads_draw_on_one_model_at_the_same_time(model):
    """Each waits for the other at every stage, so that none is alone; pictures and counts hold."""
    fill(model, 0.9)
    model.set_cache_config("hybrid")
    alone = [draw(model, seed=seed) for seed in (1, 2)]
    counted = model.get_cache_statistics()
    model.reset_cache_statistics()
    together, meeting = {}, threading.Barrier(2, timeout=30)

    def work(seed: int) -> None:
        together[seed] = draw(model, seed=seed, callback=lambda si, stages: meeting.wait())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, image in zip((1, 2), alone, strict=True):
        assert together[seed].equal(image)
    found = model.get_cache_statistics()
    for name in ("images", "stages", "totals", "multiply_adds"):
        assert found[name] == counted[name]


def test_a_configuration_that_is_set_meanwhile_is_for_the_next_image(model):
    fill(model, 0.9)
    model.set_cache_config("original")
    expected = draw(model)

    def change(si: int, stages: int) -> None:
        model.set_cache_config("no-cache")

    assert draw(model, callback=change).equal(expected)
    assert not draw(model).equal(expected)


@product(len(KINDS), preset=PRESETS)
def test_every_preset_runs_and_matches_its_plan(model, preset):
    fill(model, 0.95)
    model.set_cache_config(preset)
    plan = model.decision_plan()
    assert draw(model).isfinite().all()
    statistics = model.get_cache_statistics()
    json.dumps(statistics)
    assert statistics["images"] == 1
    if not model.cache_config.adaptive_threshold:
        for site in SITES:
            assert statistics["totals"][site]["reused"] == plan.reused(site)
            assert statistics["totals"][site]["pruned"] == plan.pruned(site)
    leaves_out = plan.reuses_anything or any(plan.pruned(site) for site in SITES)
    assert (statistics["saved_share"] > 0) == leaves_out


def test_adaptive_threshold_follows_the_first_block(model):
    """An image calmer than the table promised lowers the threshold, so that 0.5 passes it."""
    promise_what_an_image_shows(model)
    model.set_cache_config(replace(ADAPTIVE, compute_attn_layers=[0]))
    column = model.schedule.column(4)  # before 49, which may be reused
    for less, reused in ((0.0, 0), (0.3, model.depth - 1)):
        for site in SITES:
            model.similarity.site(site)[0][column] -= less
        model.reset_cache_statistics()
        draw(model)
        assert model.cache_statistics.counts(5, "attn").reused == reused


def test_adaptive_threshold_knows_how_the_image_opened(model):
    """Calmer than promised in its first transition alone, although that is no skip stage."""
    promise_what_an_image_shows(model)
    model.set_cache_config(replace(ADAPTIVE, compute_attn_layers=[0]))
    opening = [row[0][model.schedule.column(1)] for row in map(model.similarity.site, SITES)]
    for promised, reused in ((opening, 0), ([-0.99, -0.99], model.depth - 1), ([0, 0], 0)):
        for site, value in zip(SITES, promised, strict=True):
            model.similarity.site(site)[0][model.schedule.column(1)] = value
        model.reset_cache_statistics()
        draw(model)
        assert model.cache_statistics.counts(5, "attn").reused == reused
        assert model.cache_statistics.counts(1, "attn").reused == 0


def test_adaptive_threshold_lets_the_first_block_be_reused(model):
    promise_what_an_image_shows(model)
    for site in SITES:
        model.similarity.site(site)[0][model.schedule.column(5)] = 0.9
    model.set_cache_config(ADAPTIVE)
    draw(model)
    assert model.cache_statistics.counts(5, "attn").reused == 1


def promise_what_an_image_shows(model):
    """A table that knows the first block of the test's image; other modules are 0.5 alike."""
    model.calibration = True
    draw(model)
    model.calibration = False
    for site in SITES:
        row = list(model.similarity.site(site)[0])
        model.similarity.site(site)[:] = [row, *([0.5] * len(row) for _ in range(model.depth - 1))]


def test_block_is_the_plain_block_without_the_cache_keywords(model):
    plain = tiny_model(HARTForT2I)
    x, cond = torch.randn(2, 9, model.C), torch.randn(2, model.context_token, model.C)
    options = {
        "attn_bias": None,
        "si": 2,
        "context_position_ids": torch.arange(model.context_token).expand(2, -1),
        "context_mask": torch.ones(2, model.context_token),
        "m_maskgit": None,
    }
    assert model.blocks[0](x, cond, **options).equal(plain.blocks[0](x, cond, **options))


@torch.no_grad()
def test_block_call_with_the_documented_keywords(model):
    block = model.blocks[1]
    block.cache_config = CacheConfig([9], [4], threshold=0.5)
    depth, cond = model.depth, torch.randn(2, model.context_token, model.C)
    caches = {"cache_mlp": [None] * depth, "cache_attn": [None] * depth}
    table = [[1.0] * 15 for _ in range(depth)]

    def call(si, length):
        return block(
            torch.randn(2, length, model.C),
            cond,
            attn_bias=None,
            si=si,
            context_position_ids=torch.arange(model.context_token).expand(2, -1),
            context_mask=torch.ones(2, model.context_token),
            cache_similarity_mlp=table,
            cache_similarity_attn=table,
            **caches,
        )

    call(1, 4)
    assert caches["cache_mlp"][1].shape == (2, 4, model.C)
    assert caches["cache_attn"][0] is None
    assert call(2, 9).shape == (2, 9, model.C)
    assert caches["cache_mlp"][1] is None


def test_generators_must_be_one_per_image(model):
    with pytest.raises(ValueError, match="one per image"):
        model.autoregressive_infer_cfg(2, **text(model, 2), generator=generators(1))
    with pytest.raises(ValueError, match="exclude"):
        model.autoregressive_infer_cfg(1, g_seed=1, **text(model), generator=generators(1))
