"""Whole generations and the training pass against the public implementation's numbers.

Same seeds, same generators, same order of draws: token ids are equal, feature maps and images
agree up to float32 arithmetic.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hart.modules.models.transformer import sampling
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from tests.golden_data import golden_models, load_case

CASES = ["llama-no-aln", "llama-shared-aln"]
RUNS = [(name, run) for name in CASES for run in load_case(name).meta["e2e"]]
LOGIT_TOLERANCE = 2e-3  # other arithmetic: 4e-4
F_HAT_TOLERANCE = 2e-3  # other arithmetic: 7e-4


@pytest.fixture(scope="module")
def models():
    return {name: HARTForT2I.from_pretrained(golden_models() / name) for name in CASES}


@pytest.fixture
def trace(monkeypatch):
    """What the sampler drew and fed back, stage by stage."""
    seen = {"ids": [], "f_hat": [], "x": [], "masks": [], "logits": []}
    draw, run_blocks = sampling.SamplingTransformer._draw_tokens, HARTForT2I.run_blocks
    guided = sampling.SamplingTransformer.guided_logits

    def recording_draw(self, hidden, run, si, ratio):
        ids, h = draw(self, hidden, run, si, ratio)
        seen["ids"].append(ids)
        return ids, h

    def recording_run(self, x, run, si, m_maskgit=None):
        seen["x"].append(x)
        seen["f_hat"].append(run.f_hat.clone())
        if si == self.num_stages_minus_1:
            mask = torch.zeros(x.shape[0], self.last_level_pns, dtype=torch.bool)
            mask[... if m_maskgit is None else m_maskgit] = True  # None: all positions
            seen["masks"].append(mask[: run.bsz])
        return run_blocks(self, x, run, si, m_maskgit)

    def recording_logits(self, hidden, run, t):
        logits = guided(self, hidden, run, t)
        seen["logits"].append(logits.clone())
        return logits

    monkeypatch.setattr(sampling.SamplingTransformer, "_draw_tokens", recording_draw)
    monkeypatch.setattr(sampling.SamplingTransformer, "guided_logits", recording_logits)
    monkeypatch.setattr(HARTForT2I, "run_blocks", recording_run)
    return seen


def context_of(golden, run, bsz):
    if not run.endswith("_text"):
        names = ("label_B", "context_position_ids", "context_mask")
        return [golden.inputs[f"e2e.{name}"][:bsz] for name in names]
    source = golden.meta["e2e"][run]["context"]
    row, text_set = int(source.split()[1]), source.split("of ")[1].split(".")[0]
    outputs = load_case("text-encoder").outputs
    names = ("context", "position_ids", "mask")
    return [outputs[f"{text_set}.{name}"][row : row + 1] for name in names]


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_generation(models, trace, name, run):
    golden, model = load_case(name), models[name]
    about = golden.meta["e2e"][run]
    call = dict(about["call"])
    torch.manual_seed(about["seeds"]["torch.manual_seed"])
    np.random.seed(about["seeds"]["numpy.random.seed"])
    label, position_ids, mask = context_of(golden, run, call["B"])
    before = [t.clone() for t in (label, position_ids, mask)]
    image = model.autoregressive_infer_cfg(
        label_B=label, context_position_ids=position_ids, context_mask=mask, **call
    )
    for tensor, copy in zip((label, position_ids, mask), before, strict=True):
        assert tensor.equal(copy), "the caller's tensors must stay as they are"

    outputs, last = golden.outputs, len(model.patch_nums) - 1
    for si in range(last):
        assert trace["ids"][si].equal(outputs[f"e2e.{run}.idx_s{si}"])
        near(trace["f_hat"][si + 1], outputs[f"e2e.{run}.f_hat_s{si}"], F_HAT_TOLERANCE)
        check_logits(trace["logits"][si], outputs[f"e2e.{run}.logits_s{si}"])
        if f"e2e.{run}.x_s{si}" in outputs:
            expected = outputs[f"e2e.{run}.x_s{si}"]
            near(trace["x"][si][: len(expected)], expected, F_HAT_TOLERANCE)
    for step, chunk in enumerate(trace["masks"]):
        prefix = f"e2e.{run}.last."
        assert chunk.equal(outputs[f"{prefix}mask_step{step}"])
        assert trace["ids"][last + step].equal(outputs[f"{prefix}idx_step{step}"])
        check_logits(trace["logits"][last + step], outputs[f"{prefix}logits_step{step}"])
    assert len(trace["masks"]) == call["num_maskgit_iters"]
    expected = outputs[f"e2e.{run}.image_u8"].int()
    assert ((image * 255).to(torch.uint8).int() - expected).abs().max() <= 1


def near(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def check_logits(actual, expected):
    near(actual[:, : expected.shape[1]], expected, LOGIT_TOLERANCE)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("run", ["a", "b"])
def test_training_forward(models, name, run):
    golden, model = load_case(name), models[name]
    seeds = golden.meta["training"][run]["seeds"]
    torch.manual_seed(seeds["torch.manual_seed"])
    np.random.seed(seeds["numpy.random.seed"])
    model.rng.manual_seed(seeds["model.rng.manual_seed"])
    arguments = {
        key: golden.inputs[f"train.{key}"]
        for key in (
            "context",
            "x_BLCv_wo_first_l",
            "context_position_ids",
            "context_mask",
            "last_layer_gt",
            "last_layer_gt_discrete",
        )
    }
    with torch.no_grad():
        logits, diff_loss, (rows, cols) = model(**arguments)
    outputs = golden.outputs
    assert rows.equal(outputs[f"train.{run}.kept_rows"])
    assert cols.equal(outputs[f"train.{run}.kept_cols"])
    near(logits[:, :8], outputs[f"train.{run}.logits_head"], LOGIT_TOLERANCE)
    near(logits[:, -8:], outputs[f"train.{run}.logits_tail"], LOGIT_TOLERANCE)
    assert logits.argmax(-1).equal(outputs[f"train.{run}.logits_argmax"])
    near(diff_loss, outputs[f"train.{run}.diff_loss"], 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_final_feature_map(models, name):
    golden, model = load_case(name), models[name]
    for run, about in golden.meta["e2e"].items():
        torch.manual_seed(about["seeds"]["torch.manual_seed"])
        np.random.seed(about["seeds"]["numpy.random.seed"])
        call = {k: v for k, v in about["call"].items() if k not in ("B", "top_k")}
        bsz = about["call"]["B"]
        label, position_ids, mask = context_of(golden, run, bsz)
        f_hat = model.generate_feature_map(
            bsz, label, context_position_ids=position_ids, context_mask=mask, **call
        )
        near(f_hat, golden.outputs[f"e2e.{run}.f_hat_final"], F_HAT_TOLERANCE)
