"""The quantizers against the recorded numbers."""

from __future__ import annotations

import pytest
import torch

from hart.modules.models.autoencoder.quantize import VectorQuantizer2
from hart.modules.models.autoencoder.quantize.phi import build_phi

STAGES = (1, 2, 3, 4, 6, 8)
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def same_ids(found, golden, name):
    for si, ids in enumerate(found):
        assert torch.equal(ids, golden.outputs[f"{name}.idx_s{si}"]), f"stage {si}"


@pytest.fixture(scope="module")
def quantizer(vae):
    return vae.quantize


@pytest.fixture(scope="module")
def plain(golden, quantizer):
    other = VectorQuantizer2(
        vocab_size=640, Cvae=32, using_znorm=False, v_patch_nums=STAGES, share_quant_resi=4
    ).eval()
    other.load_state_dict(quantizer.state_dict())
    return other


def test_codebook_lookup_returns_the_recorded_rows(golden, quantizer):
    found = quantizer.embedding(golden.inputs["quant.embed.idx"])
    assert torch.equal(found, golden.outputs["quant.embed.out"])


def test_generation_chain_matches_map_and_next_input_of_every_stage(golden, quantizer):
    f_hat = torch.zeros(2, 32, 8, 8)
    for si in range(len(STAGES)):
        h = golden.inputs[f"quant.chain.h_s{si}"]
        out, following = quantizer.get_next_autoregressive_input(si, len(STAGES), f_hat, h)
        assert out is f_hat
        torch.testing.assert_close(out, golden.outputs[f"quant.chain.f_hat_s{si}"], **TOLERANCE)
        if si < len(STAGES) - 1:
            expected = golden.outputs[f"quant.chain.next_s{si}"]
            torch.testing.assert_close(following, expected, **TOLERANCE)


def test_plain_quantizer_convolves_the_last_stage(golden, plain):
    f_hat, _ = plain.get_next_autoregressive_input(
        5, 6, torch.zeros(1, 32, 8, 8), golden.inputs["quant_var.last.h"]
    )
    torch.testing.assert_close(f_hat, golden.outputs["quant_var.last.f_hat"], **TOLERANCE)


def test_residual_convolutions_match(golden, quantizer):
    x = golden.inputs["quant.phi.x"]
    for k, phi in enumerate(quantizer.quant_resi.qresi_ls):
        torch.testing.assert_close(phi(x), golden.outputs[f"quant.phi.out_{k}"], **TOLERANCE)


def chosen(count: int, stages: int, share: int) -> list[int]:
    container = build_phi(1, 0.5, share, count)
    members = list(container) if share == 0 else list(container.qresi_ls)
    return [
        next(k for k, phi in enumerate(members) if phi is container[si / (stages - 1)])
        for si in range(stages)
    ]


def test_stage_to_convolution_tables_including_ties(golden):
    tables = golden.meta["tokenizer"]
    assert chosen(4, len(STAGES), 4) == golden.outputs["quant.phi_index"].tolist()
    for stages, table in tables["phi_index_K4_by_number_of_stages"].items():
        assert chosen(4, int(stages), 4) == table
    for count, by_stages in tables["phi_index_other_K_by_number_of_stages"].items():
        for stages, table in by_stages.items():
            assert chosen(int(count), int(stages), int(count)) == table
    for stages, table in tables["phi_index_non_shared_K_equals_number_of_stages"].items():
        assert chosen(int(stages), int(stages), 0) == table


def test_ids_and_rest_before_the_last_stage(golden, quantizer):
    *ids, rest = quantizer.f_to_idxBl_and_frest(golden.inputs["quant.f"])
    same_ids(ids, golden, "quant.f_to_idxBl_and_frest")
    expected = golden.outputs["quant.f_to_idxBl_and_frest.frest"]
    torch.testing.assert_close(rest, expected, **TOLERANCE)


def test_ids_and_cumulative_maps(golden, quantizer):
    f = golden.inputs["quant.f"]
    same_ids(quantizer.f_to_idxBl_or_fhat(f, to_fhat=False), golden, "quant.f_to_idxBl")
    maps = quantizer.f_to_idxBl_or_fhat(f, to_fhat=True)
    torch.testing.assert_close(maps[1], golden.outputs["quant.f_to_fhat.s1"], **TOLERANCE)
    torch.testing.assert_close(maps[-1], golden.outputs["quant.f_to_fhat.last"], **TOLERANCE)


def test_sum_of_code_maps(golden, quantizer):
    maps = [
        quantizer.embedding(golden.outputs[f"quant.f_to_idxBl.idx_s{si}"])
        .transpose(1, 2)
        .reshape(2, 32, pn, pn)
        for si, pn in enumerate(STAGES)
    ]
    found = quantizer.embed_to_fhat(maps, last_one=True)
    expected = golden.outputs["quant.embed_to_fhat.last_one"]
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_teacher_forcing_input_from_ids_and_from_their_vectors(golden, quantizer):
    expected = golden.outputs["quant.idxBl_to_var_input"]
    ids = [golden.outputs[f"quant.f_to_idxBl_and_frest.idx_s{si}"] for si in range(6)]
    torch.testing.assert_close(quantizer.idxBl_to_var_input(ids), expected, **TOLERANCE)

    vectors = [quantizer.embedding(x).detach() for x in ids]
    before = [v.clone() for v in vectors]
    torch.testing.assert_close(quantizer.idxBl_to_var_input(vectors), expected, **TOLERANCE)
    assert all(torch.equal(v, b) for v, b in zip(vectors, before, strict=True))


@pytest.mark.parametrize("skip", [0, 1])
def test_training_forward_of_the_hybrid_quantizer(golden, quantizer, skip):
    f_hat, usages, loss, ids = quantizer(
        golden.inputs["quant.f"], ret_usages=True, skip_continuous_prob=float(skip)
    )
    name = f"quant.forward_skip{skip}"
    torch.testing.assert_close(f_hat, golden.outputs[f"{name}.f_hat"], **TOLERANCE)
    torch.testing.assert_close(usages, golden.outputs[f"{name}.usages"])
    torch.testing.assert_close(loss, golden.outputs[f"{name}.vq_loss"], **TOLERANCE)
    same_ids(ids, golden, "quant.forward")


def test_training_forward_of_the_plain_quantizer(golden, plain):
    f_hat, _, loss, ids = plain(golden.inputs["quant.f"])
    torch.testing.assert_close(f_hat, golden.outputs["quant_var.forward.f_hat"], **TOLERANCE)
    torch.testing.assert_close(loss, golden.outputs["quant_var.forward.vq_loss"], **TOLERANCE)
    assert torch.equal(ids[-1], golden.outputs["quant_var.forward.idx_last"])
