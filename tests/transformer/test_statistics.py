"""Statistics of a real, tiny model: against what torch counts, and what they must not cost."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hart.modules.models.transformer import feature_caching as enhanced_module
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.utils.timing import Timeline
from tests.engine.comparison import Called
from tests.product import product
from tests.tiny_models import HART_SIDES, draw, fill, generators, text, tiny_model

STAGES = tuple(side**2 for side in HART_SIDES)
MODULES = {"attn": "AdaLNSelfAttnEnhanced.attn", "mlp": "AdaLNSelfAttnEnhanced.ffn"}
BLOCK = "AdaLNSelfAttnEnhanced"


@pytest.fixture
def model():
    return tiny_model(HARTForT2IEnhanced)


def reuse_some(model) -> None:
    """Different modules reuse at three stages in a row, and all of them at none."""
    fill(model, 0.0)
    model.set_cache_config(CacheConfig(STAGES[3:], STAGES[2:-1], threshold=0.5))
    for si in (3, 4, 5):
        column = model.schedule.column(si)
        model.similarity.attn[0][column] = model.similarity.attn[si - 3][column] = 1.0
        model.similarity.mlp[1][column] = 1.0


def torch_counts(model, modules=MODULES, **options) -> dict[str, list[int]]:
    """Multiply-adds of all blocks' modules per site and stage, as torch counts them."""
    seen = {site: [0] for site in SITES}

    def note(si: int, num_stages: int) -> None:
        for site, name in modules.items():
            seen[site].append(sum(counter.get_flop_counts()[name].values()) // 2)

    # This attention is made of matrix products that every version of torch counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        draw(model, callback=note, steps=Called(model), **options)
    return {site: [b - a for a, b in pairwise(sums)] for site, sums in seen.items()}


GPT2 = {"attn_type": "gpt2", "mlp_type": "gpt2", "use_context_norm": False}


@product(2, setting=["reuse", "off", "calibration"], iterations=[3, 1], fields=[GPT2, {}])
def test_multiply_adds_are_those_that_torch_counts(setting, iterations, fields):
    model = tiny_model(HARTForT2IEnhanced, **fields)
    model.use_cache = setting == "reuse"
    model.calibration = setting == "calibration"
    if setting == "reuse":
        reuse_some(model)
    expected = torch_counts(model, bsz=2, num_maskgit_iters=iterations)
    counted = model.get_cache_statistics()["stages"]
    for site in SITES:
        computed = [counted[str(n)][site]["multiply_adds_computed"] for n in STAGES]
        assert computed == expected[site], site
    assert (model.cache_statistics.total().reused > 0) == (setting == "reuse")


PRUNED = CacheConfig(prune_stages={16: 0.5, 49: 0.75})
PRUNED_AND_REUSED = CacheConfig(
    STAGES[3:], STAGES[2:-1], threshold=0.5, prune_stages={25: 0.5, 49: 0.7}
)


@product(
    2,
    config=[
        PRUNED,
        replace(PRUNED_AND_REUSED, guidance_stop_stage=25),
        CacheConfig(guidance_stop_stage=16),
        replace(PRUNED_AND_REUSED, guidance_stop_stage=49),
    ],
    iterations=[1, 3],
    fields=[{}, GPT2],
)
def test_multiply_adds_of_left_out_tokens_are_those_that_torch_counts(config, iterations, fields):
    model = tiny_model(HARTForT2IEnhanced, **fields)
    draw(model, bsz=2, num_maskgit_iters=iterations)
    uncached = model.get_cache_statistics()["stages"]
    model.reset_cache_statistics()
    reuse_some(model)
    model.set_cache_config(config)
    expected = torch_counts(model, {"attn": BLOCK, "mlp": MODULES["mlp"]}, bsz=2,
                            num_maskgit_iters=iterations)  # fmt: skip
    expected["attn"] = [
        block - mlp for block, mlp in zip(expected["attn"], expected["mlp"], strict=True)
    ]
    counted = model.get_cache_statistics()["stages"]
    for site in SITES:
        computed = [counted[str(n)][site]["multiply_adds_computed"] for n in STAGES]
        assert computed == expected[site], site
        for n in STAGES:
            counts = counted[str(n)][site]
            whole = counts["multiply_adds_computed"] + counts["multiply_adds_saved"]
            assert whole == uncached[str(n)][site]["multiply_adds_computed"], n
    assert model.cache_statistics.saved_share > 0


def test_the_peak_of_the_key_value_cache_is_what_it_holds(model, monkeypatch):
    model.set_cache_config(replace(PRUNED, guidance_stop_stage=49))
    held, run_blocks = [], HARTForT2IEnhanced.run_blocks

    def recording(self, x, run, si, m_maskgit=None):
        out = run_blocks(self, x, run, si, m_maskgit)
        held.append(sum(len(run.kv[i].k) * run.kv[i].num_tokens for i in range(self.depth)))
        return out

    monkeypatch.setattr(HARTForT2IEnhanced, "run_blocks", recording)
    draw(model, bsz=2, steps=Called(model))
    assert model.get_cache_statistics()["key_value_tokens"]["peak"] == max(held)


def reuse_prune_and_stop(model) -> None:
    reuse_some(model)
    model.set_cache_config(
        replace(
            model.cache_config,
            prune_stages={STAGES[4]: 0.4, STAGES[5]: 0.3},
            guidance_stop_stage=STAGES[4],
        )
    )


def test_the_parts_of_what_is_saved_add_up_and_each_is_what_it_saves(model):
    """Leaving one out at a time: whatever comes after it in the order, it saves as much."""
    reuse_prune_and_stop(model)
    draw(model, bsz=2)
    statistics = model.get_cache_statistics()
    saved = statistics["multiply_adds"]["saved_by"]
    assert min(saved.values()) > 0
    assert sum(saved.values()) == statistics["multiply_adds"]["saved"]
    assert sum(statistics["saved_share_by"].values()) == pytest.approx(statistics["saved_share"])
    for sites in statistics["stages"].values():
        for counts in sites.values():
            parts = [counts[f"multiply_adds_saved_by_{cause}"] for cause in saved]
            assert sum(parts) == counts["multiply_adds_saved"]
    alone = {
        "guidance": {"skip_stages": (), "cache_stages": (), "prune_stages": ()},
        "reuse": {"prune_stages": ()},
    }
    config = model.cache_config
    for cause, changes in alone.items():
        model.reset_cache_statistics()
        model.set_cache_config(replace(config, **changes))
        draw(model, bsz=2)
        assert model.get_cache_statistics()["multiply_adds"]["saved_by"][cause] == saved[cause]


def test_counts_do_not_depend_on_the_batching(model):
    reuse_prune_and_stop(model)
    found = []
    for sizes in ((1, 1, 1, 1), (4,), (3, 1)):
        model.reset_cache_statistics()
        for bsz in sizes:
            draw(model, bsz=bsz)
        statistics = model.get_cache_statistics()
        for measured in ("seconds", "feature_cache_bytes", "key_value_tokens"):
            del statistics[measured]
        found.append(statistics)
    assert found[0] == found[1] == found[2]
    assert found[0]["modules"]["all"] == 2 * model.depth * len(STAGES)
    assert 0 < found[0]["modules"]["reused"] < found[0]["modules"]["all"]


@pytest.mark.parametrize("how", ["use_cache", "no-cache"])
def test_with_caching_off_every_module_is_counted_as_computed(model, how):
    fill(model, 1.0)
    model.set_cache_config("original" if how == "use_cache" else how)
    model.use_cache = how != "use_cache"
    draw(model)
    calls = {"computed": model.depth, "reused": 0, "stored": 0, "not_eligible": model.depth}
    for stage in model.cache_statistics.calls().values():
        assert stage == {"attn": calls, "mlp": calls}
    assert model.get_cache_statistics()["images"] == 1


@pytest.mark.parametrize("cached", [False, True])
def test_switched_off_nothing_is_counted_or_timed(model, cached, monkeypatch):
    def refuse(device):
        raise AssertionError("a clock was started")

    monkeypatch.setattr(enhanced_module, "Timeline", refuse)
    if cached:
        reuse_some(model)
    before = model.get_cache_statistics()
    model.collect_cache_statistics = False
    draw(model)
    assert model.get_cache_statistics() == before


def test_collecting_changes_no_image_and_waits_for_the_device_no_more_often(model):
    """A read of one value passes ``_local_scalar_dense``; one of several is not dispatched."""
    reuse_some(model)
    model.similarity.attn[0][model.schedule.column(1)] = 0.5  # something to compare with
    model.set_cache_config(CacheConfig(STAGES[3:], STAGES[2:-1], adaptive_threshold=True))

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    class ManyReads(TorchFunctionMode):
        count = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.count += function in (torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy)
            return function(*args, **(kwargs or {}))

    images, reads = [], []
    for collecting in (True, False):
        model.collect_cache_statistics = collecting
        with Reads() as single, ManyReads() as many:
            images.append(draw(model))
        reads.append((single.count, many.count))
    assert images[0].equal(images[1])
    assert reads[0] == reads[1]
    assert sum(reads[0]) > 0


def test_bytes_are_those_of_the_stored_tensors_at_every_moment(model):
    reuse_some(model)
    held = []

    def compare(si: int, num_stages: int) -> None:
        tensors = [t for t in (*model.cache_attn, *model.cache_mlp) if t is not None]
        held.append(sum(t.numel() * t.element_size() for t in tensors))
        assert model.get_cache_statistics()["feature_cache_bytes"]["now"] == held[-1], si

    draw(model, 2, callback=compare)
    statistics = model.get_cache_statistics()["feature_cache_bytes"]
    assert statistics["now"] == 0
    assert statistics["peak"] >= max(held) > 0
    # Two attentions, reused since stage 2, are as small as they were; an MLP of stage 4.
    rows, tokens = 4, STAGES[2] + STAGES[2] + STAGES[4]
    assert max(held) == rows * tokens * model.C * 4


def test_seconds_belong_to_stages_and_to_the_diffusion_head(model):
    draw(model)
    first = model.get_cache_statistics()["seconds"]
    assert list(first["stages"]) == [str(n) for n in STAGES]
    assert min(*first["stages"].values(), first["residual"]) > 0
    draw(model, num_maskgit_iters=0)  # without the last stage
    second = model.get_cache_statistics()["seconds"]
    assert second["stages"]["1"] > first["stages"]["1"]
    assert second["stages"]["49"] == first["stages"]["49"]
    assert second["residual"] == first["residual"]


def test_without_the_diffusion_head_it_takes_no_time(model):
    draw(model, final_stage=1)
    seconds = model.get_cache_statistics()["seconds"]
    assert seconds["residual"] == 0.0
    assert seconds["stages"]["49"] > 0


def test_a_generation_that_fails_is_not_counted(model):
    reuse_some(model)
    draw(model)
    before = model.get_cache_statistics()

    def fail(si, num_stages):
        if si == 4:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        draw(model, callback=fail)
    assert model.get_cache_statistics() == before


def test_thresholds_show_what_was_promised_measured_and_used(model):
    model.calibration = True
    draw(model)
    model.calibration = False
    columns = [model.schedule.column(si) for si in (1, 4)]  # what it opened with, and before 49
    rows = [model.similarity.site(site)[0] for site in SITES]
    measured = sum(row[column] for row in rows for column in columns) / 4
    model.reset_cache_statistics()
    model.set_cache_config(CacheConfig([49], [25], threshold=0.4, adaptive_threshold=True))
    draw(model)
    for row in rows:
        for column in columns:
            row[column] -= 0.1 * (1 - row[column])  # a tenth more dissimilar was promised
    draw(model)
    (stage,) = model.get_cache_statistics()["thresholds"].items()
    assert stage[0] == "49"
    promised = measured - 0.1 * (1 - measured)
    looser = 1 - 0.6 * 1.1**4
    expected = {
        "calibrated": {"mean": (measured + promised) / 2, "min": promised, "max": measured},
        "measured": {"mean": measured, "min": measured, "max": measured},
        "effective": {"mean": (0.4 + looser) / 2, "min": looser, "max": 0.4},
    }
    for name, spread in expected.items():
        assert stage[1][name] == pytest.approx(spread, abs=1e-4), name


def test_a_fixed_threshold_is_no_adapted_one(model):
    reuse_some(model)
    draw(model)
    assert model.get_cache_statistics()["thresholds"] == {}


def test_a_reset_leaves_what_a_new_model_has(model):
    reuse_some(model)
    fresh = model.get_cache_statistics()
    draw(model, 2)
    statistics = model.get_cache_statistics()
    assert json.loads(json.dumps(statistics)) == statistics != fresh
    model.reset_cache_statistics()
    assert model.get_cache_statistics() == fresh


def test_the_plain_model_marks_a_timeline_too():
    plain = tiny_model(HARTForT2I)
    timeline = Timeline("cpu")
    plain.generate_feature_map(1, **text(plain), generator=generators(1), timeline=timeline)
    parts = [name for name, _ in timeline.seconds()]
    last = len(HART_SIDES) - 1
    stages = [f"stage {si}" for si in range(last)]
    assert parts == [*stages, f"stage {last}", "residual", f"stage {last}"]


def test_reuse_by_layer_is_the_plan_times_the_images(model):
    reuse_some(model)
    plan = model.decision_plan()
    draw(model)
    draw(model, bsz=2)
    for site in SITES:
        for si in range(len(STAGES)):
            expected = [3 * plan.action(si, layer, site).reuse for layer in range(model.depth)]
            assert model.cache_statistics.reused_by_layer[site][si] == expected
    assert sum(map(sum, model.cache_statistics.reused_by_layer["attn"])) > 0
    model.reset_cache_statistics()
    assert not any(map(any, model.cache_statistics.reused_by_layer["attn"]))
