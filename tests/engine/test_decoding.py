"""Decoding in tiles: near the image decoded at once, without seams, in less memory."""

from __future__ import annotations

import copy
import pickle
import weakref
from itertools import pairwise

import pytest
import torch

from hart.engine import EngineDecoder, decoder_copy, decoding
from hart.engine.decoder_copy import DecoderCopy, Precision, fit_precision, typical_map
from hart.engine.decoding import _starts
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from tests.product import product
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model(HARTForT2IEnhanced)


def smooth_maps(model, n: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(n, model.Cvae, 3, 3, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=side, mode="bicubic", align_corners=True)


def half(model, dtype: torch.dtype):
    """The model's autoencoder in a half precision."""
    return model.vae_proxy[0].to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("limit", [1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_decoder_stays_near_float32_or_is_copied_to_it(monkeypatch, dtype, limit):
    model = tiny_model(HARTForT2IEnhanced)
    vae, maps = half(model, dtype), smooth_maps(model, 2, 7).to(dtype)
    weights = {name: p.clone() for name, p in vae.decoder.named_parameters()}
    monkeypatch.setattr(decoder_copy, "HALF_PRECISION_LIMIT", limit)
    image = EngineDecoder().decode(model, maps)
    assert image.dtype is (dtype if limit else torch.float32)
    assert all(p.equal(weights[name]) for name, p in vae.decoder.named_parameters())
    vae.float()
    exact = model.decode_feature_map(maps)
    assert (image.float() - exact).abs().max() <= (0.02 if limit else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_last_level_alone_is_in_half_precision_where_all_is_too_far(monkeypatch, dtype):
    model = tiny_model(HARTForT2IEnhanced)
    vae, maps = half(model, dtype), smooth_maps(model, 2, 7).to(dtype)
    tried = typical_map(vae)
    pictures = [DecoderCopy(vae, Precision(d))(tried).float() for d in (dtype, torch.float32)]
    furthest = (pictures[0].clamp(-1, 1) - pictures[1].clamp(-1, 1)).abs().max() / 2
    monkeypatch.setattr(decoder_copy, "HALF_PRECISION_LIMIT", furthest * 0.9)
    assert fit_precision(vae) == (torch.float32, dtype)
    mixed, all_half = EngineDecoder().decode(model, maps), model.decode_feature_map(maps).float()
    assert mixed.dtype is torch.float32
    exact = model.double().decode_feature_map(maps)
    assert 0 < (mixed - exact).abs().mean() < (all_half - exact).abs().mean()


@torch.no_grad()
def test_a_decoder_that_overflows_half_precision_is_copied_to_float32():
    model = tiny_model(HARTForT2IEnhanced)
    vae = model.vae_proxy[0]
    vae.decoder.conv_in.weight.mul_(1e4)
    vae.quantize.embedding.weight.mul_(100)
    vae.to(torch.float16)
    maps = 10 * smooth_maps(model, 1, 7).half()
    assert not model.decode_feature_map(maps).isfinite().all()
    assert EngineDecoder().decode(model, maps).isfinite().all()
    assert vae.decoder.conv_in.weight.dtype is torch.float16


@torch.no_grad()
def test_the_precision_is_that_of_the_weights_whatever_was_decoded_before():
    model = tiny_model(HARTForT2IEnhanced)
    half(model, torch.bfloat16)
    maps = smooth_maps(model, 2, 7).bfloat16()
    expected = EngineDecoder().decode(model, maps)
    for other in (torch.zeros_like(maps), 1e4 * maps, torch.full_like(maps, torch.nan)):
        decoder = EngineDecoder()
        decoder.decode(model, other)
        assert decoder.decode(model, maps).equal(expected)


@torch.no_grad()
def test_large_pictures_are_decoded_one_by_one_and_are_the_same(monkeypatch):
    model, decoder = tiny_model(HARTForT2IEnhanced), EngineDecoder()
    maps, sizes = smooth_maps(model, 5, 7), []
    together, at_once = decoder.decode(model, maps), DecoderCopy.__call__

    def counted(copy, f_hat):
        sizes.append(len(f_hat))
        return at_once(copy, f_hat)

    monkeypatch.setattr(DecoderCopy, "__call__", counted)
    side = together.shape[-1]
    for pixels, expected in ((1, [1] * 5), (2 * side**2, [2, 2, 1]), (2**20, [5])):
        monkeypatch.setattr(decoding, "PIXELS_AT_ONCE", pixels)
        sizes.clear()
        torch.testing.assert_close(decoder.decode(model, maps), together)  # up to rounding
        assert sizes == expected


@torch.no_grad()
def test_precision_is_compared_with_float32_of_the_cpu(monkeypatch):
    """Not of the device, which may round it as TF32 does."""
    vae = half(tiny_model(HARTForT2IEnhanced), torch.bfloat16)
    made, make = [], DecoderCopy.__init__

    def watched(copy, vae, precision, device=None):
        made.append((precision.dtype, device))
        make(copy, vae, precision, device)

    monkeypatch.setattr(DecoderCopy, "__init__", watched)
    fit_precision(vae)
    assert made[:2] == [(torch.float32, "cpu"), (torch.bfloat16, None)]
    assert {device for _, device in made[1:]} == {None}


CHANGES = {
    "in place": lambda p: p.mul_(1.25),
    "through .data": lambda p: p.data.mul_(1.25),
    "another tensor": lambda p: setattr(p, "data", p * 1.25),
    "one bit": lambda p: p.data.view(torch.int32).view(-1)[-1:].bitwise_xor_(1 << 22),
}


@torch.no_grad()
@product(change=[*CHANGES], mode=[torch.no_grad, torch.inference_mode])
def test_the_copy_follows_every_change_of_the_weights(change, mode):
    model, decoder = tiny_model(HARTForT2IEnhanced), EngineDecoder()
    maps = smooth_maps(model, 1, 7)
    with mode():
        decoder.decode(model, maps)
    kept = decoder._copy
    decoder.decode(model, maps)
    assert decoder._copy is kept  # nothing has changed
    CHANGES[change](model.vae_proxy[0].decoder.mid.block_1.conv1.weight)
    assert decoder.decode(model, maps).equal(EngineDecoder().decode(model, maps))
    assert decoder._copy is not kept


@torch.no_grad()
def test_the_copy_follows_a_change_of_a_setting():
    model, decoder = tiny_model(HARTForT2IEnhanced), EngineDecoder()
    maps = smooth_maps(model, 1, 7)
    before = decoder.decode(model, maps)
    model.vae_proxy[0].decoder.norm_out.eps = 1.0
    changed = decoder.decode(model, maps)
    assert changed.equal(EngineDecoder().decode(model, maps))
    assert not changed.equal(before)


@torch.no_grad()
def test_weights_that_were_made_in_inference_mode_may_change_there():
    with torch.inference_mode():
        model, decoder = tiny_model(HARTForT2IEnhanced), EngineDecoder()
        maps = smooth_maps(model, 1, 7)
        before = decoder.decode(model, maps)
        model.vae_proxy[0].decoder.conv_out.weight.mul_(-1)
        assert not decoder.decode(model, maps).equal(before)
        assert decoder.decode(model, maps).equal(EngineDecoder().decode(model, maps))


@torch.no_grad()
def test_the_copy_is_of_the_model_at_hand_and_freed_with_its_owner():
    models = [tiny_model(HARTForT2IEnhanced) for _ in range(2)]
    models[1].vae_proxy[0].decoder.conv_out.bias.add_(0.3)
    maps, decoder = smooth_maps(models[0], 1, 7), EngineDecoder()
    for model in (*models, *models):
        assert decoder.decode(model, maps).equal(EngineDecoder().decode(model, maps))
    parts = [weakref.ref(decoder._copy._decoder), weakref.ref(models[0].vae_proxy[0])]
    for twin in (copy.copy(decoder), copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert twin.size_bytes == 0
    assert decoder.size_bytes > 0
    del model
    models.clear()
    assert parts[1]() is None  # the copy does not keep what it was made of
    del decoder
    assert parts[0]() is None


@torch.no_grad()
def test_small_maps_are_decoded_at_once(model):
    maps = smooth_maps(model, 2, 7)
    torch.testing.assert_close(
        EngineDecoder().decode_in_tiles(model, maps), EngineDecoder().decode(model, maps)
    )


@torch.no_grad()
@pytest.mark.parametrize(("side", "tile", "overlap"), [(12, 8, 3), (13, 5, 2), (9, 8, 0)])
def test_tiles_stand_where_their_part_of_the_image_is(model, monkeypatch, side, tile, overlap):
    """With a decoder that looks at single positions only, tiles change nothing."""
    scale = model.vae_proxy[0].downsample

    def decode_positions(*arguments):
        f_hat = arguments[-1]
        return f_hat[:, :3].repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    monkeypatch.setattr(EngineDecoder, "decode", decode_positions)
    maps = smooth_maps(model, 2, side)
    image = EngineDecoder().decode_in_tiles(model, maps, tile, overlap)
    torch.testing.assert_close(image, decode_positions(maps))


@pytest.mark.parametrize("side", range(9, 40))
def test_neighbours_share_what_they_must_and_nothing_is_left_out(side):
    starts = list(_starts(side, 8, 3))
    assert starts[0] == 0
    assert starts[-1] == side - 8
    assert all(0 < b - a <= 5 for a, b in pairwise(starts))


@torch.no_grad()
def test_no_step_at_the_seams_is_larger_than_the_image_has_anyway(model):
    maps = smooth_maps(model, 1, 24)
    whole, tiled = (
        EngineDecoder().decode(model, maps),
        EngineDecoder().decode_in_tiles(model, maps, 12, 6),
    )
    assert tiled.diff(dim=-1).abs().max() < 1.5 * whole.diff(dim=-1).abs().max()


def test_an_overlap_of_a_whole_tile_is_refused(model):
    with pytest.raises(ValueError, match=r"overlap must be within 0 \.\. 7 for tiles of 8: 8"):
        EngineDecoder().decode_in_tiles(model, smooth_maps(model, 1, 9), 8, 8)
