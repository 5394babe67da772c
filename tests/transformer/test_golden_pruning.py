"""Token pruning in a block and in whole generations, against FastVAR's own numbers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from hart.modules.models.transformer.execution import executor
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.basic_hart_enhanced import AdaLNSelfAttnEnhanced, CacheConfig
from hart.modules.networks.caching import generation_cache
from hart.modules.networks.caching.generation_cache import GenerationCache
from hart.modules.networks.caching.plan import decide_all
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.kv_cache import LayerKVCache
from hart.modules.networks.norms import LlamaRMSNormFused
from tests.engine.comparison import Called
from tests.golden_data import golden_models, load_case
from tests.transformer.test_golden_generation import context_of, near

CASE = load_case("fastvar-select")
BLOCK_TOLERANCE = 1e-5  # other arithmetic: 3e-6
TOLERANCE = 2e-3  # as for generations without pruning


@pytest.fixture
def kept(monkeypatch):
    """The sets of tokens that were kept, in the order of the calls."""
    seen, original = [], generation_cache.split_tokens

    def recording(x, keep):
        result = original(x, keep)
        seen.append(result[0])
        return result

    monkeypatch.setattr(generation_cache, "split_tokens", recording)
    return seen


def golden_block() -> AdaLNSelfAttnEnhanced:
    about = CASE.config["block"]
    block = AdaLNSelfAttnEnhanced(
        block_idx=0,
        last_drop_p=0.0,
        cond_dim=about["embed_dim"],
        norm_layer=partial(LlamaRMSNormFused, eps=about["norm_eps"]),
        **{name: about[name] for name in (
            "embed_dim", "num_heads", "context_token", "attn_type", "mlp_type", "disable_aln",
            "shared_aln",
        )},
        patch_nums=tuple(about["patch_nums"]),
        cache_config=CacheConfig(prune_stages={2304: 0.5, 4096: 0.75}),
    ).eval()  # fmt: skip
    block.load_state_dict(CASE.weights())
    return block


@torch.no_grad()
def test_one_block_with_the_published_constants(kept):
    block, cache = golden_block(), LayerKVCache()
    outputs, tables = CASE.outputs, SimilarityTables.empty(1, block.schedule)
    run = GenerationCache(decide_all(block.cache_config, block.schedule, tables))
    positions = torch.arange(4096).repeat(2)
    everything = (torch.arange(2).repeat_interleave(4096), positions)
    before = 0
    for si in range(5):
        x = CASE.inputs[f"block.s{si}.x"]
        run.begin_stage(si, len(x))
        out = block(
            x,
            cond_BD=torch.zeros(2, 6, 16),
            attn_bias=None,
            si=si,
            context_position_ids=CASE.inputs["block.context_position_ids"],
            context_mask=torch.ones(2, 6),
            m_maskgit=everything if si == 4 else None,
            kv_cache=cache,
            output=partial(run.output, 0),
        )
        run.end_stage(si, *x.shape[:2])
        near(out, outputs[f"block.s{si}.out"], BLOCK_TOLERANCE)
        assert cache.num_tokens - before == outputs["block.new_keys_per_stage"][si]
        before = cache.num_tokens
    assert before == CASE.meta["block"]["cached_tokens"]
    expected = [outputs[f"block.s{si}.{site}_idx"] for si in (3, 4) for site in ("attn", "ffn")]
    for found, recorded in zip(kept, expected, strict=True):
        assert found.equal(recorded.long().sort(dim=1).values)


def prune_config(about) -> CacheConfig:
    ratios = {int(side) ** 2: ratio for side, ratio in about["ratio_pruned_by_side"].items()}
    return CacheConfig(prune_stages=ratios, prune_source=about["source_side"] ** 2)


@pytest.fixture(scope="module")
def model():
    return HARTForT2IEnhanced.from_pretrained(golden_models() / "llama-no-aln")


@pytest.mark.parametrize("blocks_are_called", [False, True])
@pytest.mark.parametrize("run", CASE.meta["e2e"])
def test_generation(model, kept, monkeypatch, run, blocks_are_called):
    about, outputs = CASE.meta["e2e"][run], CASE.outputs
    model.set_cache_config(prune_config(about))
    seen, restored = [], []
    original, restore = model.run_blocks, generation_cache.restore_tokens

    def recording(x, generation, si, m_maskgit=None):
        seen.append((x.clone(), generation.f_hat.clone()))
        return original(x, generation, si, m_maskgit)

    def recording_restored(kept, index, source):
        restored.append(restore(kept, index, source))
        return restored[-1]

    monkeypatch.setattr(model, "run_blocks", recording)
    for module in (generation_cache, executor):
        monkeypatch.setattr(module, "restore_tokens", recording_restored)
    torch.manual_seed(about["seeds"]["torch.manual_seed"])
    np.random.seed(about["seeds"]["numpy.random.seed"])
    bsz = about["call"]["B"]
    label, position_ids, mask = context_of(CASE, run, bsz)
    f_hat = model.generate_feature_map(
        bsz,
        label,
        context_position_ids=position_ids,
        context_mask=mask,
        steps=Called(model) if blocks_are_called else None,
        **{name: value for name, value in about["call"].items() if name != "B"},
    )
    near(f_hat, outputs[f"e2e.{run}.f_hat_final"], TOLERANCE)
    for si, (x, _) in enumerate(seen):
        expected = outputs[f"e2e.{run}.x_s{si}"]
        near(x[: len(expected)], expected, TOLERANCE)
        if si:
            near(seen[si][1], outputs[f"e2e.{run}.f_hat_s{si - 1}"], TOLERANCE)
    sides = [side for side in model.patch_nums if str(side) in about["ratio_pruned_by_side"]]
    names = [
        f"e2e.{run}.s{model.patch_nums.index(side)}.b{layer}.{site}"
        for side in sides
        for layer in range(model.depth)
        for site in ("attn", "ffn")
    ]
    for name, index, out in zip(names, kept, restored, strict=True):
        assert index.equal(outputs[f"{name}_idx"].long().sort(dim=1).values), name
        if f"{name}_restored" in outputs:
            near(out, outputs[f"{name}_restored"], TOLERANCE)
