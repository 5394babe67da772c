"""Encoder, decoder, token methods and discriminator against the recorded numbers."""

from __future__ import annotations

import json

import pytest
import torch

from hart.modules.models.autoencoder import (
    HARTAutoEncoderWithDisc,
    HARTAutoEncoderWithDiscConfig,
)
from tests.golden_data import GOLDEN

TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def close(found, golden, name):
    torch.testing.assert_close(found, golden.outputs[name], **TOLERANCE)


def test_decoding_square_and_other_maps(golden, vae):
    f_hat = golden.inputs["vae.f_hat"]
    close(vae.post_quant_conv(f_hat), golden, "vae.post_quant_conv")
    close(vae.fhat_to_img(f_hat), golden, "vae.fhat_to_img")
    close(vae.fhat_to_img(golden.inputs["vae.f_hat_3x5"]), golden, "vae.fhat_to_img_3x5")


def test_encoder(golden, vae):
    features = vae.encoder(golden.inputs["vae.image"])
    close(features, golden, "vae.encoder")
    close(vae.quant_conv(features), golden, "vae.f")


def test_image_to_ids_and_rest(golden, vae):
    *ids, rest = vae.img_to_idxBl_and_frest(golden.inputs["vae.image"])
    for si, found in enumerate(ids):
        assert torch.equal(found, golden.outputs[f"vae.img_to_idxBl_and_frest.idx_s{si}"])
    close(rest, golden, "vae.img_to_idxBl_and_frest.frest")
    plain = vae.img_to_idxBl(golden.inputs["vae.image"])
    assert all(torch.equal(a, b) for a, b in zip(ids, plain, strict=True))


def test_encode(golden, vae):
    f_hat, usages, loss, ids = vae.encode(golden.inputs["vae.image"])
    close(f_hat, golden, "vae.encode.f_hat")
    close(usages, golden, "vae.encode.usages")
    close(loss, golden, "vae.encode.vq_loss")
    for si, found in enumerate(ids):
        assert torch.equal(found, golden.outputs[f"vae.encode.idx_s{si}"])


def test_reconstruction_by_forward(golden, vae):
    result = vae(golden.inputs["vae.image"])
    assert set(result) == {"out", "usages", "vq_loss"}
    close(result["out"], golden, "vae.forward.out")


def test_image_from_ids_alone(golden, vae):
    ids = [golden.outputs[f"vae.img_to_idxBl_and_frest.idx_s{si}"] for si in range(6)]
    found = vae.idxBl_to_img(ids, same_shape=True, last_one=True)
    close(found, golden, "vae.idxBl_to_img.last_one")
    assert len(vae.idxBl_to_img(ids, same_shape=True)) == 6
    rebuilt = vae.img_to_reconstructed_img(golden.inputs["vae.image"], last_one=True)
    close(rebuilt, golden, "vae.idxBl_to_img.last_one")


def test_discriminator(golden, with_disc):
    scores, none = with_disc(model_index=1, input0=golden.inputs["vae.image"])
    close(scores, golden, "disc.image")
    assert none is None


@pytest.mark.parametrize("variant", ["default", "1024px"])
def test_full_size_keys_shapes_and_dtypes(variant):
    manifest = json.loads((GOLDEN / "manifest-0.7b" / "autoencoder.json").read_text())
    config, expected = manifest["config"], dict(manifest["tensors"])
    if variant == "1024px":
        other = next(value for key, value in manifest.items() if key.startswith("with "))
        config = other["config"]
        expected.update(other["changed"])
    with torch.device("meta"):
        model = HARTAutoEncoderWithDisc(HARTAutoEncoderWithDiscConfig.from_dict(config))
    found = {
        key: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for key, t in model.state_dict().items()
    }
    assert found == expected
    assert sum(p.numel() for p in model.vae_params) == manifest["parameter_counts"]["vae"]
    assert sum(p.numel() for p in model.disc_params) == manifest["parameter_counts"]["disc"]
