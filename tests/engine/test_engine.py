"""The executor, the model's and the engine's, against called blocks: the same images."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from hart.engine import Engine, denoiser
from hart.modules.models.transformer.execution import streams, token_wise
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.similarity import SimilarityRecorder
from tests.copies import copied
from tests.engine.comparison import (
    MAP_TOLERANCE,
    Called,
    Documented,
    Recorded,
    assert_same_maps,
    assert_same_steps,
)
from tests.product import KINDS, PRESETS, product
from tests.tiny_models import fill, generators, text, tiny_model

FAMILIES = {
    "llama": {},
    "gpt2": {"attn_type": "gpt2", "mlp_type": "gpt2"},
    "gpt2-mlp": {"mlp_type": "gpt2"},
    "separate-adaln": {"disable_aln": False},
    "shared-adaln": {"shared_aln": True},
    "cross-attention": {"use_cross_attn": True},
    "l2-norm": {"attn_l2_norm": True},
}


@copied
def lively_model(model_class=HARTForT2IEnhanced, **overrides):
    """A model whose diffusion head and cross-attention do something."""
    model = tiny_model(model_class, **overrides)
    torch.manual_seed(11)
    with torch.no_grad():
        zero = [p for p in model.parameters() if p.ndim == 2 and not p.any()]
        for parameter in zero:
            parameter.normal_(std=0.2)
    fill_with = getattr(model, "similarity", None)
    if fill_with is not None:
        fill(model, 0.95)
    return model


def draw_map(model, steps, bsz: int, **options) -> tuple[torch.Tensor, Recorded]:
    recorded = Recorded(steps)
    arguments = {"cfg": 3.0, **text(model, bsz), **options}
    f_hat = model.generate_feature_map(bsz, generator=generators(bsz), steps=recorded, **arguments)
    return f_hat, recorded


def assert_same(model, bsz: int, **options) -> None:
    plain, by_blocks = draw_map(model, Called(model), bsz, **options)
    for steps in (model, Engine(model)):
        fast, by_executor = draw_map(model, steps, bsz, **options)
        assert_same_steps(by_executor, by_blocks)
        assert_same_maps(fast, plain)


def statistics_of_both(model, **options) -> list[dict]:
    """What called blocks and the engine count while they draw two images."""
    found = []
    for steps in (Called(model), Engine(model)):
        model.reset_cache_statistics()
        draw_map(model, steps, 2, **options)
        found.append(model.get_cache_statistics())
    return found


@product(family=[*FAMILIES], bsz=[1, 3])
def test_every_family_draws_the_same(family, bsz):
    model = lively_model(**FAMILIES[family])
    for preset in ("no-cache", "aggressive"):
        model.set_cache_config(preset)
        assert_same(model, bsz)


@product(len(KINDS), preset=PRESETS, family=["llama", "gpt2"], iterations=[1, 3])
def test_every_preset_draws_the_same(family, preset, iterations):
    model = lively_model(**FAMILIES[family])
    model.set_cache_config(preset)
    assert_same(model, 2, num_maskgit_iters=iterations, more_smooth=True)


@product(family=[*FAMILIES], preset=["original", "aggressive"], iterations=[1, 3])
def test_blocks_called_as_documented_draw_the_same(family, preset, iterations):
    model = lively_model(**FAMILIES[family])
    model.set_cache_config(preset)
    tables = {site: model.similarity.site(site) for site in SITES}
    plain, by_lists = draw_map(model, Documented(model, tables), 2, num_maskgit_iters=iterations)
    fast, by_executor = draw_map(model, model, 2, num_maskgit_iters=iterations)
    assert model.cache_statistics.total().reused > 0
    assert_same_steps(by_executor, by_lists)
    assert_same_maps(fast, plain)


@pytest.mark.parametrize("iterations", [1, 3])
def test_blocks_called_as_documented_measure_the_same(iterations):
    model = lively_model()
    recorders = {s: SimilarityRecorder(model.depth, model.schedule.width) for s in SITES}
    draw_map(model, Documented(model, recorders), 1, num_maskgit_iters=iterations)
    model.clear_similarity_data()
    model.calibration = True
    draw_map(model, Engine(model), 1, num_maskgit_iters=iterations)
    for site, recorder in recorders.items():
        found, expected = torch.tensor(recorder.finish()), torch.tensor(model.similarity.site(site))
        assert expected.any()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sites", ["both", "attn", "mlp"])
def test_uneven_tables_split_the_runs(sites):
    """Modules pass at some stages only, so that runs differ from stage to stage."""
    model = lively_model(depth=5)
    generator = torch.Generator().manual_seed(1)
    for site in ("attn", "mlp"):
        values = torch.rand(model.depth, model.schedule.width, generator=generator).tolist()
        setattr(model, f"cache_similarity_{site}", values)
    model.set_cache_config("ultra-fast")
    config = replace(
        model.cache_config,
        adaptive_threshold=False,
        threshold=0.3,
        enable_attn_cache=sites != "mlp",
        enable_mlp_cache=sites != "attn",
    )
    model.set_cache_config(config)
    assert 0 < model.decision_plan().reused("attn" if sites == "attn" else "mlp") < 5 * 6
    assert_same(model, 2)


@pytest.mark.parametrize("adaptive", [False, True])
def test_blocks_that_always_compute_draw_the_same_and_count_the_same(adaptive):
    model = lively_model(depth=3)
    model.set_cache_config("aggressive")
    config = replace(
        model.cache_config,
        adaptive_threshold=adaptive,
        compute_attn_layers=[2],
        compute_mlp_layers=[0, 1],
    )
    model.set_cache_config(config)
    assert_same(model, 2)
    plain, fast = statistics_of_both(model)
    assert fast["stages"] == plain["stages"]
    skipped = len(config.skip_stages)
    for site, blocks in (("attn", 2), ("mlp", 1)):
        assert fast["totals"][site]["reused"] == blocks * skipped


def test_every_interpolation_mode_draws_the_same_and_not_what_the_others_draw():
    model, maps = lively_model(), []
    model.set_cache_config("original")
    for mode in ("bilinear", "nearest", "bicubic"):
        model.set_cache_config(replace(model.cache_config, interpolation_mode=mode))
        assert_same(model, 1)
        maps.append(draw_map(model, Engine(model), 1)[0])
    assert all((a - b).abs().max() > MAP_TOLERANCE for a, b in combinations(maps, 2))


def test_caching_changes_what_is_drawn():
    """Otherwise the comparisons above would compare nothing."""
    model = lively_model()
    maps = []
    for preset in ("no-cache", "aggressive"):
        model.set_cache_config(preset)
        maps.append(draw_map(model, Engine(model), 1)[0])
    assert (maps[0] - maps[1]).abs().max() > 0.01


def test_statistics_are_those_of_the_plain_path_and_fewer_bytes():
    model = lively_model()
    model.set_cache_config("aggressive")
    plain, fast = statistics_of_both(model, num_maskgit_iters=2)
    assert fast["stages"] == plain["stages"]
    assert fast["totals"] == plain["totals"]
    assert fast["images"] == plain["images"] == 2
    # One sum before and one after the first block's MLP stand for the five outputs that are kept.
    assert fast["feature_cache_bytes"]["peak"] * 5 == plain["feature_cache_bytes"]["peak"] * 2


def adaptive_model(skip_last: int, sites: str = "both", **overrides):
    """A model whose modules pass its adaptive threshold here and there."""
    model = lively_model(depth=4, **overrides)
    generator = torch.Generator().manual_seed(5)
    for site in ("attn", "mlp"):
        values = torch.rand(model.depth, model.schedule.width, generator=generator).tolist()
        setattr(model, f"cache_similarity_{site}", values)
    lengths = model.schedule.lengths
    config = CacheConfig(
        lengths[-skip_last:],
        lengths[-skip_last - 1 : -1],
        threshold=0.4,
        adaptive_threshold=True,
        enable_attn_cache=sites != "mlp",
        enable_mlp_cache=sites != "attn",
    )
    model.set_cache_config(config)
    return model


def thresholds(statistics) -> list[float]:
    found = statistics["thresholds"].values()
    return [stage[value]["mean"] for stage in found for value in ("measured", "effective")]


@product(3, family=[*FAMILIES], sites=["both", "attn", "mlp"], iterations=[1, 3])
def test_the_adaptive_threshold_draws_the_same_and_counts_the_same(family, sites, iterations):
    model = adaptive_model(4, sites, **FAMILIES[family])
    options = {"num_maskgit_iters": iterations}
    assert_same(model, 2, **options)
    plain, fast = statistics_of_both(model, **options)
    assert fast["stages"] == plain["stages"]
    assert sum(site["reused"] for site in fast["totals"].values()) > 0
    assert thresholds(fast) == pytest.approx(thresholds(plain), abs=1e-5)
    assert fast["feature_cache_bytes"]["now"] == 0
    assert fast["feature_cache_bytes"]["peak"] <= plain["feature_cache_bytes"]["peak"]


@product(4, family=[*FAMILIES], preset=["fastvar", "hybrid"], iterations=[1, 3])
def test_pruning_draws_the_same_and_counts_the_same(preset, family, iterations):
    model = adaptive_model(2, **FAMILIES[family])  # its table lets some modules be reused
    model.set_cache_config(preset)
    model.set_cache_config(replace(model.cache_config, threshold=0.4))
    options = {"num_maskgit_iters": iterations}
    # Without the residual: this random diffusion head makes 1e-3 of 2e-7 in a token or two.
    assert_same(model, 2, final_stage=1, **options)
    plain, fast = statistics_of_both(model, **options)
    for name in ("stages", "multiply_adds", "key_value_tokens"):
        assert fast[name] == plain[name]
    assert sum(site["pruned"] for site in fast["totals"].values()) > 0
    assert (sum(site["reused"] for site in fast["totals"].values()) > 0) == (preset == "hybrid")


def test_pruning_from_a_reused_stage_draws_the_same():
    model = adaptive_model(3)
    model.set_cache_config("hybrid")
    lengths = model.schedule.lengths
    config = replace(model.cache_config, skip_stages=lengths[-3:], cache_stages=lengths[-4:-1])
    model.set_cache_config(config)
    assert_same(model, 2)


@product(
    family=["llama", "gpt2", "separate-adaln", "cross-attention"],
    iterations=[3, 1],
    stop=[0, 3, -1],
    preset=["adaptive", "original", "hybrid"],
)
def test_guidance_that_ends_early_draws_the_same_and_counts_the_same(
    preset, family, stop, iterations
):
    model = adaptive_model(3, **FAMILIES[family])
    if preset != "adaptive":
        model.set_cache_config(preset)
    length = model.schedule.lengths[stop]
    model.set_cache_config(replace(model.cache_config, threshold=0.4, guidance_stop_stage=length))
    options = {"num_maskgit_iters": iterations}
    assert_same(model, 2, final_stage=1, **options)
    plain, fast = statistics_of_both(model, **options)
    for name in ("stages", "multiply_adds", "key_value_tokens"):
        assert fast[name] == plain[name]
    assert fast["feature_cache_bytes"]["now"] == 0
    assert 0 < fast["saved_share"] < 1


def test_a_text_that_is_kept_draws_the_same():
    model = adaptive_model(len(lively_model().patch_nums) - 1)
    assert_same(model, 2)
    assert not thresholds(model.get_cache_statistics())  # nothing comes before what may be reused


@product(family=["llama", "gpt2", "separate-adaln"], iterations=[1, 3])
def test_calibration_draws_what_caching_off_draws_and_measures_what_the_model_measures(
    family, iterations
):
    model = lively_model(**FAMILIES[family])
    options = {"num_maskgit_iters": iterations}
    off, _ = draw_map(model, Engine(model), 2, **options)
    model.calibration = True
    tables, statistics = [], []
    for steps in (Called(model), Engine(model)):
        model.clear_similarity_data()
        model.reset_cache_statistics()
        f_hat, _ = draw_map(model, steps, 2, **options)
        tables.append(model.similarity)
        found = model.get_cache_statistics()
        statistics.append([found[k] for k in ("stages", "totals", "feature_cache_bytes")])
    assert f_hat.equal(off)
    assert statistics[0] == statistics[1]
    plain, fast = tables
    assert plain.images == fast.images == 2
    for site in ("attn", "mlp"):
        ours, theirs = torch.tensor(fast.site(site)), torch.tensor(plain.site(site))
        assert theirs.any()
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_plain_model_has_an_engine_too():
    assert_same(lively_model(HARTForT2I), 2)


@pytest.mark.parametrize("options", [{"cfg": 1.0}, {"final_stage": 1}, {"num_maskgit_iters": 0}])
def test_other_ways_through_the_loop(options):
    assert_same(lively_model(), 2, **options)


def test_guidance_of_exactly_one_samples_residuals_without_guidance():
    """The diffusion head's own rule; its scale is ``cfg * (S - 2) / (S - 1)``."""
    assert_same(lively_model(), 2, cfg=5 / 4)


def test_piece_sizes_do_not_matter(monkeypatch):
    model = lively_model()
    model.set_cache_config("original")
    monkeypatch.setattr(streams, "TOKENS_AT_ONCE", 10)
    monkeypatch.setattr(denoiser, "ROWS_AT_ONCE", 7)
    assert_same(model, 2)


@pytest.mark.slow
def test_compiled_functions_draw_the_same(monkeypatch):
    """With the backend that runs torch's own operations: tracing is what can go wrong here."""
    model = lively_model(depth=1, patch_nums=(1, 2, 3))
    monkeypatch.setattr("hart.engine.engine.compiled", lambda: token_wise.compiled("eager"))
    plain, _ = draw_map(model, Called(model), 1)
    fast, _ = draw_map(model, Engine(model, compile=True), 1)
    assert_same_maps(fast, plain)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "shared-adaln"])
def test_compiled_functions_need_two_graphs_each(family, monkeypatch):
    """One for a single row and one for more, whatever is drawn; torch gives up after eight."""
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    functions = token_wise.compiled(counted)
    monkeypatch.setattr("hart.engine.engine.compiled", lambda: functions)
    model = lively_model(depth=2, **FAMILIES[family])
    for preset in PRESETS:
        model.set_cache_config(preset)
        for bsz in (1, 2, 3):
            plain, _ = draw_map(model, Engine(model), bsz)
            fast, _ = draw_map(model, Engine(model, compile=True), bsz)
            assert_same_maps(fast, plain)
    assert 0 < len(graphs) <= 4


def test_a_failure_leaves_nothing_behind():
    model = lively_model()
    model.set_cache_config("original")
    expected, _ = draw_map(model, Engine(model), 1)

    def fail(si, _):
        if si == 4:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        draw_map(model, Engine(model), 1, callback=fail)
    again, _ = draw_map(model, Engine(model), 1)
    assert again.equal(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_cuda(dtype):
    model = lively_model().to("cuda", dtype)
    model.vae_proxy[0].to("cuda", dtype)
    model.set_cache_config("original")
    arguments = {k: v.to("cuda") for k, v in text(model, 2).items()}
    if dtype == torch.float32:
        assert_same(model, 2, **arguments)
        return
    _, by_model = draw_map(model, Called(model), 2, **arguments)
    _, by_engine = draw_map(model, Engine(model), 2, **arguments)
    # Later stages start from other tokens when a draw falls the other way.
    assert torch.allclose(by_engine.hidden[0], by_model.hidden[0], rtol=0.05, atol=0.05)
