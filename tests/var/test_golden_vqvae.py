"""VAR's autoencoder against the public implementation's numbers."""

from __future__ import annotations

import pytest
import torch

from tests.golden_data import load_case
from tests.var.checkpoint import PATCH_NUMS, golden_vae

TOLERANCE = 2e-5
PIXEL_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def case():
    return load_case("var-small-vae")


@pytest.fixture(scope="module")
def vae():
    return golden_vae()


def near(actual, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def test_the_stages_one_after_the_other(case, vae):
    last = len(PATCH_NUMS) - 1
    f_hat = torch.zeros(2, 16, 6, 6)
    for si in range(last + 1):
        h = case.inputs[f"quant.chain.h_s{si}"]
        with torch.no_grad():
            f_hat, following = vae.quantize.get_next_autoregressive_input(
                si, last + 1, f_hat, h.clone()
            )
        near(f_hat, case.outputs[f"quant.chain.f_hat_s{si}"])
        near(following, case.outputs[f"quant.chain.{'next' if si < last else 'f_hat'}_s{si}"])


@pytest.fixture(scope="module")
def encoded(case, vae):
    with torch.no_grad():
        return vae.encoder(case.inputs["vae.image"])


def test_encoding(case, vae, encoded, monkeypatch):
    near(encoded, case.outputs["vae.encoder"])
    monkeypatch.setattr(vae.encoder, "forward", lambda image: encoded)
    with torch.no_grad():
        near(vae._encode(case.inputs["vae.image"]), case.outputs["vae.f"])
    ids = vae.img_to_idxBl(case.inputs["vae.image"])
    maps = vae.quantize.f_to_idxBl_or_fhat(case.outputs["vae.f"], True)
    for si in range(len(PATCH_NUMS)):
        assert ids[si].equal(case.outputs[f"vae.idx_s{si}"])
        near(maps[si], case.outputs[f"vae.f_hat_s{si}"])
    near(vae.quantize.idxBl_to_var_input(ids), case.outputs["vae.idxBl_to_var_input"])


def test_decoding(case, vae):
    ids = [case.outputs[f"vae.idx_s{si}"] for si in range(len(PATCH_NUMS))]
    with torch.no_grad():
        last = vae.idxBl_to_fhat(ids, True, last_one=True)
        near(last, case.outputs["vae.embed_to_fhat_last"])
        native = vae.idxBl_to_fhat(ids, False, last_one=True)
        near(native, case.outputs["vae.embed_to_fhat_native_last"])
        near(vae.fhat_to_img(last), case.outputs["vae.idxBl_to_img_last"], PIXEL_TOLERANCE)
        odd = case.inputs["vae.f_hat_3x5"]
        near(vae.fhat_to_img(odd), case.outputs["vae.fhat_to_img_3x5"], PIXEL_TOLERANCE)
        first = vae.fhat_to_img(case.outputs["vae.f_hat_s0"])
    near(first, case.outputs["vae.img_to_reconstructed_img_first"], PIXEL_TOLERANCE)


def test_reconstruction(case, vae, encoded, monkeypatch):
    monkeypatch.setattr(vae.encoder, "forward", lambda image: encoded)
    with torch.no_grad():
        out, usages, loss = vae(case.inputs["vae.image"], ret_usages=True)
    near(out, case.outputs["vae.forward.out"], PIXEL_TOLERANCE)
    near(torch.tensor(usages, dtype=torch.float64), case.outputs["vae.forward.usages"])
    near(loss, case.outputs["vae.forward.vq_loss"])
