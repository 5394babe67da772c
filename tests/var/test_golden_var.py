"""VAR's blocks, sampling and training pass against the public implementation's numbers.

Same seeds, same order of draws: token ids are equal, tensors agree up to float32 arithmetic.
"""

from __future__ import annotations

import pytest
import torch

from hart.modules.models.transformer.sampling import SamplingTransformer
from hart.modules.models.transformer.var_transformer_c2i import VARForC2I
from hart.modules.networks.kv_cache import LayerKVCache
from tests.golden_data import load_case
from tests.var.checkpoint import golden_model

CASE = load_case("var-small")
TOLERANCE = 2e-5
RUN_TOLERANCE, SMOOTH_TOLERANCE = 5e-5, 5e-4
IMAGE_TOLERANCE = 1e-5
RUNS = [run for run in CASE.meta["e2e"] if run != "r7_reuse"]


@pytest.fixture(scope="module")
def model():
    return golden_model()


def near(actual, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@torch.no_grad()
def test_the_first_block(model):
    block, cond = model.blocks[0], model.class_emb(CASE.inputs["block0.label"])
    near(cond, CASE.outputs["block0.cond"])
    seen, kv = {}, LayerKVCache()
    handles = [
        module.register_forward_hook(
            lambda _, args, out, name=name: seen.update({f"{name}_in": args[0], f"{name}_out": out})
        )
        for name, module in (("attn", block.attn), ("ffn", block.ffn))
    ]
    for si in range(3):
        out = block(CASE.inputs[f"block0.s{si}.x"], cond, None, si, kv_cache=kv)
        near(out, CASE.outputs[f"block0.s{si}.out"])
        for name, tensor in seen.items():
            near(tensor, CASE.outputs[f"block0.s{si}.{name}"])
    near(kv.k, CASE.outputs["block0.cached_k"])
    near(kv.v, CASE.outputs["block0.cached_v"])
    out = block(CASE.inputs["block0.train.x"], cond, model.attn_bias_for_masking)
    near(out, CASE.outputs["block0.train.out"])
    for handle in handles:
        handle.remove()


@torch.no_grad()
def test_embeddings_and_head(model):
    levels = model.level_embeddings()[model.lvl_1L[0]]
    near(levels + model.pos_1LC, CASE.outputs["lvl_pos"])
    hidden, cond = CASE.inputs["logits.hidden"], CASE.outputs["block0.cond"]
    near(model.head_nm(hidden, cond), CASE.outputs["logits.head_nm"])
    near(model.get_logits(hidden, cond), CASE.outputs["logits.out"])


@pytest.fixture
def trace(monkeypatch):
    """What the sampler drew and fed back, stage by stage."""
    seen = {name: [] for name in ("x", "logits", "ids", "h", "f_hat")}

    class Recording(SamplingTransformer):
        def run_blocks(self, x, run, si, m_maskgit=None):
            seen["x"].append(x)
            return originals["run_blocks"](self, x, run, si, m_maskgit)

        def _draw_tokens(self, logits, run, si, ratio):
            seen["logits"].append(logits.clone())
            ids, h = originals["_draw_tokens"](self, logits, run, si, ratio)
            seen["ids"].append(ids)
            seen["h"].append(h)
            return ids, h

        def _add_stage(self, h, run, si):
            following = originals["_add_stage"](self, h, run, si)
            seen["f_hat"].append(run.f_hat.clone())
            return following

    names = ("run_blocks", "_draw_tokens", "_add_stage")
    originals = {name: getattr(VARForC2I, name) for name in names}
    for name in names:
        monkeypatch.setattr(VARForC2I, name, Recording.__dict__[name], raising=False)
    return seen


@pytest.mark.parametrize("run", RUNS)
def test_generation(model, trace, run):
    about = CASE.meta["e2e"][run]
    call = dict(about["call"])
    torch.manual_seed(about["torch.manual_seed"])
    label = call.pop("label_B")
    label = torch.tensor(label) if isinstance(label, list) else label
    image = model.autoregressive_infer_cfg(label_B=label, **call)

    tolerance = SMOOTH_TOLERANCE if call["more_smooth"] else RUN_TOLERANCE
    outputs, prefix = CASE.outputs, f"e2e.{run}."
    for si, side in enumerate(model.patch_nums):
        assert trace["ids"][si].equal(outputs[f"{prefix}idx_s{si}"]), si
        near(trace["logits"][si], outputs[f"{prefix}logits_s{si}"], tolerance)
        near(trace["f_hat"][si], outputs[f"{prefix}f_hat_s{si}"], tolerance)
        if call["more_smooth"]:
            h = trace["h"][si].transpose(1, 2).unflatten(2, (side, side))
            near(h, outputs[f"{prefix}h_s{si}"], tolerance)
        if f"{prefix}x_s{si}" in outputs:
            expected = outputs[f"{prefix}x_s{si}"]
            near(trace["x"][si][: len(expected)], expected, tolerance)
    near_image(image, outputs, prefix)


def near_image(image, outputs, prefix):
    if f"{prefix}image" in outputs:
        near(image, outputs[f"{prefix}image"], IMAGE_TOLERANCE)
    expected = outputs[f"{prefix}image_u8"].int()
    assert ((image * 255).to(torch.uint8).int() - expected).abs().max() <= 1


def training_inputs():
    return CASE.inputs["train.label_B"], CASE.inputs["train.x_BLCv_wo_first_l"]


@torch.no_grad()
def test_the_training_pass(model):
    logits = model(*training_inputs())
    near(logits, CASE.outputs["train.a.logits"])
    targets = CASE.inputs["train.gt_idx"]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    near(loss, CASE.outputs["train.a.loss"])


@pytest.mark.parametrize("run", ["a", "b"])
def test_classes_are_dropped_in_training_only(run):
    """The public code draws in evaluation too; run b drops the class of its second row."""
    model = golden_model(drop_path_rate=0.0)
    torch.manual_seed(CASE.meta["training"][run]["torch.manual_seed"])
    with torch.no_grad():
        near(model.train()(*training_inputs()), CASE.outputs[f"train.{run}.logits"])
        near(model.eval()(*training_inputs()), CASE.outputs["train.a.logits"])
