"""Configuration and ``save_pretrained`` / ``from_pretrained`` through transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hart.modules.losses.vqgan import NLayerDiscriminatorConfig
from hart.modules.models.autoencoder import (
    HARTAutoEncoder,
    HARTAutoEncoderConfig,
    HARTAutoEncoderWithDisc,
    HARTAutoEncoderWithDiscConfig,
)
from tests.autoencoder.conftest import build
from tests.golden_data import golden_models

BOTH = [HARTAutoEncoderConfig, HARTAutoEncoderWithDiscConfig]


def same_weights(model, other):
    expected = other.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize("config_class", BOTH)
def test_auto_config_round_trip_keeps_every_field(tmp_path, config_class):
    config = config_class(ch=32, v_patch_nums=[1, 3], ch_mult=[1, 2], extra_field=7)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is config_class
    assert (loaded.ch, loaded.v_patch_nums, loaded.ch_mult) == (32, (1, 3), (1, 2))
    assert loaded.extra_field == 7
    assert loaded.to_dict().keys() >= config.to_dict().keys() - {"_name_or_path"}


def test_one_stage_is_refused():
    with pytest.raises(ValueError, match="v_patch_nums must be a list of 2 to 64 entries"):
        HARTAutoEncoder(HARTAutoEncoderConfig(v_patch_nums=(4,)))


def test_repeated_registration_is_harmless():
    AutoConfig.register("hart_autoencoder", HARTAutoEncoderConfig, exist_ok=True)
    AutoModel.register(HARTAutoEncoderConfig, HARTAutoEncoder, exist_ok=True)


def test_from_pretrained_of_the_recorded_folder_with_its_discriminator_width(with_disc):
    folder = golden_models() / "tokenizer"
    model = HARTAutoEncoderWithDisc.from_pretrained(folder, disc_ndf=8)
    same_weights(model, with_disc)


def test_save_and_auto_load_with_discriminator(tmp_path, with_disc):
    with_disc.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert type(model) is HARTAutoEncoderWithDisc
    same_weights(model, with_disc)
    same_weights(HARTAutoEncoder.from_tokenizer_folder(tmp_path), with_disc.vae)


def test_save_and_auto_load_the_autoencoder_alone(tmp_path, vae):
    vae.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert type(model) is HARTAutoEncoder
    same_weights(model, vae)
    same_weights(HARTAutoEncoder.from_tokenizer_folder(tmp_path), vae)


def test_weights_missing_from_a_file_are_initialised_not_left_as_memory(tmp_path, golden):
    config = HARTAutoEncoderWithDiscConfig.from_dict({**golden.config, "disc_ndf": 8})
    config.save_pretrained(tmp_path)
    weights = {k: v for k, v in golden.weights().items() if k.startswith("vae.")}
    del weights["vae.quantize.ema_vocab_hit_SV"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    model = HARTAutoEncoderWithDisc.from_pretrained(tmp_path)
    assert torch.equal(model.vae.quant_conv.weight, weights["vae.quant_conv.weight"])
    assert model.vae.quantize.ema_vocab_hit_SV.abs().sum() == 0
    assert torch.equal(model.disc.main[3].running_var, torch.ones(16))
    assert 0.01 < model.disc.main[0].weight.std() < 0.03


def test_discriminator_built_by_hand_keeps_its_own_initialisation(golden):
    weight = build(golden).disc.main[2].weight
    assert 0.015 < weight.std() < 0.025


def test_unknown_quantizer_and_double_decoder_without_hybrid_are_refused():
    with pytest.raises(ValueError, match="quantizer_type must be 'var' or 'var_hybrid', got 'vq'"):
        HARTAutoEncoderConfig(quantizer_type="vq")
    with pytest.raises(ValueError, match="double_decoder"):
        HARTAutoEncoderConfig(double_decoder=True)
    with pytest.raises(ValueError, match="use_actnorm"):
        NLayerDiscriminatorConfig(use_actnorm=True)
