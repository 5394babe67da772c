"""Half precision, training, freezing, and arguments that must not be changed."""

from __future__ import annotations

import copy

import pytest
import torch

from hart.modules.models.autoencoder import HARTAutoEncoder, HARTAutoEncoderConfig
from hart.modules.models.autoencoder.quantize import HARTHybridQuantizer, VectorQuantizer2
from hart.modules.networks.basic_vae import Decoder, Encoder

STAGES = (1, 2, 3)
HALVES = [torch.bfloat16, torch.float16]


def quantizer(cls=HARTHybridQuantizer, **kwargs):
    torch.manual_seed(0)
    return cls(vocab_size=20, Cvae=4, using_znorm=False, v_patch_nums=STAGES, **kwargs)


def autoencoder(**kwargs):
    torch.manual_seed(0)
    layout = {"vocab_size": 20, "ch": 32, "ch_mult": (1, 1), "v_patch_nums": STAGES}
    return HARTAutoEncoder(HARTAutoEncoderConfig(**layout, **kwargs))


@pytest.mark.parametrize("dtype", HALVES)
def test_generation_in_half_precision_stays_near_float32(dtype):
    exact, half = quantizer().eval(), quantizer().eval().to(dtype)
    sums = [torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3, dtype=dtype)]
    for si, pn in enumerate(STAGES):
        h = torch.randn(2, 4, pn, pn, generator=torch.Generator().manual_seed(si))
        exact.get_next_autoregressive_input(si, 3, sums[0], h)
        _, following = half.get_next_autoregressive_input(si, 3, sums[1], h.to(dtype))
        assert following.dtype == dtype
    torch.testing.assert_close(sums[1].float(), sums[0], atol=0.05, rtol=0.02)


@pytest.mark.parametrize("dtype", HALVES)
def test_float32_map_in_a_half_precision_quantizer_stays_float32(dtype):
    f_hat = torch.zeros(1, 4, 3, 3)
    _, following = (
        quantizer().to(dtype).get_next_autoregressive_input(0, 3, f_hat, torch.ones(1, 4, 1, 1))
    )
    assert following.dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_autoencoder_takes_float32_images_and_maps(dtype):
    model = autoencoder(quantizer_type="var_hybrid").to(dtype).eval()
    image = torch.rand(1, 3, 6, 6) * 2 - 1
    ids = model.img_to_idxBl(image)
    assert [x.shape[1] for x in ids] == [1, 4, 9]
    assert model.idxBl_to_img(ids, same_shape=True, last_one=True).dtype == dtype


def test_next_input_is_not_the_map_that_the_next_stage_changes():
    model = quantizer()
    f_hat = torch.zeros(1, 4, 3, 3)
    _, following = model.get_next_autoregressive_input(1, 3, f_hat, torch.ones(1, 4, 2, 2))
    before = following.clone()
    model.get_next_autoregressive_input(2, 3, f_hat, torch.ones(1, 4, 3, 3))
    assert torch.equal(following, before)


def test_patch_nums_argument_replaces_the_default_schedule():
    model = quantizer()
    f_hat, following = model.get_next_autoregressive_input(
        0, 2, torch.zeros(1, 4, 5, 5), torch.ones(1, 4, 1, 1), patch_nums=(1, 5)
    )
    assert f_hat.shape == following.shape == (1, 4, 5, 5)


def test_quantizing_leaves_the_input_unchanged():
    model, f = quantizer(), torch.randn(2, 4, 3, 3)
    before = f.clone()
    model.f_to_idxBl_or_fhat(f, to_fhat=True)
    model.f_to_idxBl_and_frest(f)
    model(f)
    assert torch.equal(f, before)


def test_ids_given_for_a_stage_are_used_there_and_change_later_stages():
    model, f = quantizer(), torch.randn(2, 4, 3, 3)
    free = model.f_to_idxBl_or_fhat(f, to_fhat=False)
    given = (free[1] + 7) % 20
    forced = model.f_to_idxBl_or_fhat(f, to_fhat=False, exception_stages={1: given})
    assert torch.equal(forced[0], free[0])
    assert torch.equal(forced[1], given)
    assert not torch.equal(forced[2], free[2])


def test_schedule_that_does_not_end_at_the_map_size_is_refused():
    with pytest.raises(ValueError, match="the last stage is"):
        quantizer().f_to_idxBl_or_fhat(torch.zeros(1, 4, 5, 5), to_fhat=False)


def test_map_that_is_not_square_can_be_quantized():
    ids = quantizer().f_to_idxBl_or_fhat(
        torch.randn(1, 4, 2, 3), to_fhat=False, v_patch_nums=[(1, 1), (1, 2), (2, 3)]
    )
    assert [x.shape[1] for x in ids] == [1, 2, 6]


def test_cosine_lookup_ignores_the_length_of_codes():
    model = quantizer(VectorQuantizer2)
    model.using_znorm = True
    with torch.no_grad():
        model.embedding.weight[3] = torch.tensor([100.0, 0, 0, 0])
        model.embedding.weight[4] = torch.tensor([1.0, 0.5, 0, 0])
    f = torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1).expand(1, 4, 3, 3)
    assert model.f_to_idxBl_or_fhat(f, to_fhat=False)[0].item() == 3


def test_sum_at_native_scales_has_each_stage_size():
    model = quantizer()
    maps = [torch.ones(1, 4, pn, pn) for pn in STAGES]
    sums = model.embed_to_fhat(maps, all_to_max_scale=False)
    assert [x.shape[-1] for x in sums] == [1, 2, 3]
    with pytest.raises(ValueError, match="got 2 maps"):
        model.embed_to_fhat(maps[:2])


def test_gradients_pass_straight_through_and_reach_the_codebook():
    model, f = quantizer(VectorQuantizer2), torch.randn(2, 4, 3, 3, requires_grad=True)
    f_hat, _, loss, _ = model(f)
    (through,) = torch.autograd.grad(f_hat.sum(), f, retain_graph=True)
    assert torch.equal(through, torch.ones_like(f))
    loss.backward()
    assert model.embedding.weight.grad.abs().sum() > 0
    assert f.grad.abs().sum() > 0


def test_hit_average_starts_as_a_copy_then_moves_slowly():
    model, f = quantizer(VectorQuantizer2), torch.randn(2, 4, 3, 3)
    model(f)
    first = model.ema_vocab_hit_SV.clone()
    assert first.sum(dim=1).tolist() == [2, 8, 18]
    model(torch.randn(2, 4, 3, 3))
    assert 0 < (model.ema_vocab_hit_SV - first).abs().sum() < 0.2 * 28 + 1e-4
    model.eval()(f)
    assert model.record_hit == 2


def test_training_step_without_a_process_group():
    model = autoencoder(quantizer_type="var_hybrid", freeze_codebook_for_hybrid=False).train()
    images = torch.rand(2, 3, 6, 6) * 2 - 1
    result = model(images, skip_continuous_prob=1.0)
    model.compute_loss(**result, xs=images).backward()
    assert model.get_last_layer().grad.abs().sum() > 0
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0


def trained_parts(model):
    return {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}


def test_hybrid_training_freezes_all_but_the_first_decoder():
    hybrid = {"quantizer_type": "var_hybrid"}
    first = {"decoder", "post_quant_conv"}
    assert trained_parts(autoencoder(**hybrid)) == first
    assert trained_parts(autoencoder(**hybrid, double_decoder=True)) == first
    assert trained_parts(autoencoder()) == {*first, "encoder", "quant_conv", "quantize"}
    assert trained_parts(autoencoder(test_mode=True)) == set()


def test_second_decoder_decodes_discrete_maps_only():
    model = autoencoder(quantizer_type="var_hybrid", double_decoder=True).eval()
    images = torch.rand(1, 3, 6, 6)
    discrete = model.forward_with_double_decoder(images, skip_continuous_prob=1.0)["out"]
    continuous = model.forward_with_double_decoder(images, skip_continuous_prob=0.0)["out"]
    torch.testing.assert_close(continuous, model(images, skip_continuous_prob=0.0)["out"])
    assert not torch.allclose(discrete, model(images, skip_continuous_prob=1.0)["out"])


def test_second_decoder_absent_from_a_state_dict_starts_as_a_copy():
    model = autoencoder(quantizer_type="var_hybrid", double_decoder=True)
    state = {
        key: tensor
        for key, tensor in copy.deepcopy(model.state_dict()).items()
        if not key.startswith(("decoder2.", "post_quant_conv2."))
    }
    keys = set(state)
    model.load_state_dict(state)
    assert set(state) == keys
    assert torch.equal(model.post_quant_conv2.weight, model.post_quant_conv.weight)
    assert torch.equal(model.decoder2.conv_in.weight, model.decoder.conv_in.weight)
    with torch.no_grad():
        model.decoder.conv_in.weight.zero_()
    assert model.decoder2.conv_in.weight.abs().sum() > 0


def test_load_state_dict_replaces_hit_statistics_in_a_copy_only():
    model = autoencoder()
    state = model.state_dict()
    state["quantize.ema_vocab_hit_SV"] = wrong = torch.ones(7, 20)
    model.load_state_dict(state)
    assert state["quantize.ema_vocab_hit_SV"] is wrong
    assert model.quantize.ema_vocab_hit_SV.shape == (3, 20)


def test_ids_that_fill_no_square_are_refused():
    with pytest.raises(ValueError, match="8 tokens"):
        autoencoder().idxBl_to_fhat([torch.zeros(1, n, dtype=torch.long) for n in (1, 4, 8)], True)


def test_codebook_reinitialisation_bounds():
    model = quantizer()
    model.eini(-2.0)
    assert model.embedding.weight.abs().max() <= 2 / 20
    model.eini(0.5)
    assert 0.2 < model.embedding.weight.std() < 0.6


@pytest.mark.parametrize("share", [0, 1, 3])
def test_phi_parameter_names(share):
    keys = {
        k.removeprefix("quant_resi.").removesuffix(".weight")
        for k in quantizer(share_quant_resi=share).state_dict()
        if k.startswith("quant_resi.") and k.endswith(".weight")
    }
    names = {0: {"0", "1", "2"}, 1: {"qresi"}, 3: {"qresi_ls.0", "qresi_ls.1", "qresi_ls.2"}}
    assert keys == names[share]


def test_phi_without_residual_share_has_no_parameters():
    model = quantizer(quant_resi=0.0)
    assert not any(key.startswith("quant_resi") for key in model.state_dict())
    f_hat, _ = model.get_next_autoregressive_input(
        0, 3, torch.zeros(1, 4, 3, 3), torch.ones(1, 4, 1, 1)
    )
    torch.testing.assert_close(f_hat, torch.ones(1, 4, 3, 3))


def test_encoder_and_decoder_attributes_and_switches():
    encoder = Encoder(ch=32, ch_mult=(1, 2), z_channels=4, double_z=True, using_sa=False)
    assert (encoder.downsample_ratio, encoder.num_resolutions, encoder.in_channels) == (2, 2, 3)
    assert encoder(torch.zeros(1, 3, 4, 4)).shape == (1, 8, 2, 2)
    assert not any(".attn." in key for key in encoder.state_dict())
    decoder = Decoder(ch=32, ch_mult=(1, 2), z_channels=4, using_mid_sa=False)
    assert not any("mid.attn_1" in key for key in decoder.state_dict())
    assert decoder(torch.zeros(1, 4, 2, 2)).shape == (1, 3, 4, 4)
