"""Blocks, positions and logits against the public implementation's numbers."""

from __future__ import annotations

import pytest
import torch

from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.networks.kv_cache import LayerKVCache
from hart.modules.networks.rope import get_position_ids
from hart.modules.networks.utils import gumbel_softmax_with_rng, sample_with_top_k_top_p_
from tests.golden_data import golden_models, load_case

CASES = ["llama-no-aln", "llama-shared-aln"]
BLOCK_TOLERANCE = 1e-4  # other float32 arithmetic moved block outputs by at most 1e-5


@pytest.fixture(scope="module", params=CASES)
def case(request):
    golden = load_case(request.param)
    return golden, HARTForT2I.from_pretrained(golden_models() / request.param)


def assert_near(actual, expected, tolerance=BLOCK_TOLERANCE):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def conditioning(golden, model):
    inputs = golden.inputs
    return {
        "cond_BD": model.embed_context(inputs["block0.context"]),
        "context_position_ids": inputs["block0.context_position_ids"],
        "context_mask": inputs["block0.context_mask"],
    }


@torch.no_grad()
def test_context_norm_and_embedding(case):
    golden, model = case
    context = golden.inputs["block0.context"]
    assert_near(model.context_norm(context), golden.outputs["block0.context_norm"])
    assert_near(model.embed_context(context), golden.outputs["block0.cond"])
    assert_near(model.level_embeddings(), golden.outputs["block0.lvl_embed"])


@torch.no_grad()
def test_first_block_stage_by_stage_with_kv_cache(case):
    golden, model = case
    block, cache = model.blocks[0], LayerKVCache()
    seen = {}
    for name in ("attn", "ffn"):
        getattr(block, name).register_forward_hook(
            lambda _, inputs, out, name=name: seen.update(
                {f"{name}_in": inputs[0], f"{name}_out": out}
            )
        )
    for call in golden.meta["block0_calls"]["calls"]:
        name = call["call"]
        mask = golden.inputs.get(f"block0.{name}.mask")
        out = block(
            golden.inputs[f"block0.{name}.x"],
            attn_bias=None,
            si=call["si"],
            m_maskgit=None if mask is None else mask.nonzero(as_tuple=True),
            kv_cache=cache,
            **conditioning(golden, model),
        )
        assert_near(out, golden.outputs[f"block0.{name}.out"])
        for part, tensor in seen.items():
            assert_near(tensor, golden.outputs[f"block0.{name}.{part}"])
    assert_near(cache.k, golden.outputs["block0.cached_k"])
    assert_near(cache.v, golden.outputs["block0.cached_v"])


@torch.no_grad()
def test_first_block_with_its_own_kv_cache(case):
    golden, model = case
    block = model.blocks[0]
    block.attn.kv_caching(True)
    for si in (0, 1):
        out = block(
            golden.inputs[f"block0.s{si}.x"], attn_bias=None, si=si, **conditioning(golden, model)
        )
        assert_near(out, golden.outputs[f"block0.s{si}.out"])
    assert block.attn.cached_k.shape[2] == model.context_token + 4
    block.attn.kv_caching(False)
    assert block.attn.cached_k is None
    assert not block.attn.caching


@torch.no_grad()
def test_first_block_in_training(case):
    golden, model = case
    x = golden.inputs["block0.train.x"]
    n = x.shape[1]
    given = conditioning(golden, model)
    out = model.blocks[0].forward_function(
        x,
        given["cond_BD"],
        model.attn_bias_for_masking[:, :, :n, :n],
        golden.inputs["block0.train.keep_mask"].nonzero(as_tuple=True),
        given["context_position_ids"],
        given["context_mask"],
    )
    assert_near(out, golden.outputs["block0.train.out"])


@torch.no_grad()
def test_rotary_tables(case):
    golden, model = case
    attn, x = model.blocks[0].attn, torch.zeros(1)
    for si in range(1, len(model.patch_nums)):
        ids = get_position_ids(1, model.patch_nums[1:], "cpu", si - 1)
        assert_near(ids[0], golden.outputs[f"block0.position_ids.s{si}"], 1e-6)
    tables = attn.rotary_emb(x, get_position_ids(1, model.patch_nums[1:], "cpu", 0) + 6)
    text_tables = attn.context_rotary_emb(x, golden.inputs["block0.context_position_ids"])
    for name, tensor in zip(("cos", "sin"), tables, strict=True):
        assert_near(tensor, golden.outputs[f"block0.rope2d.s1.offset6.{name}"], 1e-6)
    for name, tensor in zip(("cos", "sin"), text_tables, strict=True):
        assert_near(tensor, golden.outputs[f"block0.rope1d.{name}"], 1e-6)


@torch.no_grad()
def test_logits(case):
    golden, model = case
    hidden, cond = golden.inputs["logits.hidden"], golden.inputs["logits.cond"]
    assert_near(model.head_nm(hidden, cond), golden.outputs["logits.head_nm"])
    assert_near(model.get_logits(hidden, cond), golden.outputs["logits.out"])
    assert_near(model.decoder_norm(hidden), golden.outputs["logits.decoder_norm"])


def draw(logits, options):
    rng = torch.Generator().manual_seed(options["generator_seed"])
    return sample_with_top_k_top_p_(logits, options["top_k"], options["top_p"], rng), rng


@pytest.mark.parametrize("setting", ["k600", "k300", "k0", "k600_p0.9", "k0_p0.5"])
def test_categorical_draws(setting):
    golden = load_case("llama-shared-aln")
    logits = golden.inputs["sampling.logits"].clone()
    ids, _ = draw(logits, golden.meta["sampling"][setting])
    assert ids[..., 0].equal(golden.outputs[f"sampling.{setting}.idx"])
    assert logits.isfinite().equal(golden.outputs[f"sampling.{setting}.kept"])


def test_gumbel_noise_follows_the_ids_in_the_same_generator():
    golden = load_case("llama-shared-aln")
    logits = golden.inputs["sampling.logits"].clone()
    _, rng = draw(logits, golden.meta["sampling"]["k600"])
    weights = gumbel_softmax_with_rng(logits * 1.3, 0.2, rng=rng)
    assert_near(weights, golden.outputs["sampling.gumbel.rng"], 1e-6)
    torch.manual_seed(425)
    weights = gumbel_softmax_with_rng(logits * 1.3, 0.2)
    assert_near(weights, golden.outputs["sampling.gumbel.no_rng"], 1e-6)
