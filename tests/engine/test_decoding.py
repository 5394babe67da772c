"""Decoding in tiles: near the image decoded at once, without seams, in less memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from hart.engine import decode, decode_in_tiles, decoding
from hart.engine.decoding import _starts, fit_precision
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model(HARTForT2IEnhanced)


def smooth_maps(model, n: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(n, model.Cvae, 3, 3, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=side, mode="bicubic", align_corners=True)


@torch.no_grad()
@pytest.mark.parametrize("limit", [1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_decoder_stays_near_float32_or_becomes_it(monkeypatch, dtype, limit):
    model = tiny_model(HARTForT2IEnhanced)
    vae, maps = model.vae_proxy[0].to(dtype), smooth_maps(model, 2, 7).to(dtype)
    weights = {name: p.clone() for name, p in vae.decoder.named_parameters()}
    monkeypatch.setattr(decoding, "HALF_PRECISION_LIMIT", limit)
    image = decode(model, maps)
    assert {p.dtype for p in vae.decoder.parameters()} == {dtype if limit else torch.float32}
    assert all(p.equal(weights[name].to(p.dtype)) for name, p in vae.decoder.named_parameters())
    monkeypatch.setattr(decoding, "fit_precision", None)  # tried once only
    assert decode(model, maps).equal(image)
    vae.float()
    exact = model.decode_feature_map(maps)
    assert (image.float() - exact).abs().max() <= (0.02 if limit else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_last_level_alone_is_in_half_precision_where_all_is_too_far(monkeypatch, dtype):
    model = tiny_model(HARTForT2IEnhanced)
    vae, maps = model.vae_proxy[0].to(dtype), smooth_maps(model, 2, 7).to(dtype)
    half = model.decode_feature_map(maps).float()
    vae.float()
    exact = model.decode_feature_map(maps)
    vae.to(dtype)
    monkeypatch.setattr(decoding, "HALF_PRECISION_LIMIT", (half - exact).abs().max() / 2)
    assert fit_precision(model, maps) == (torch.float32, dtype)
    mixed = decode(model, maps)
    assert mixed.dtype is torch.float32
    assert 0 < (mixed - exact).abs().mean() < (half - exact).abs().mean()


@torch.no_grad()
def test_a_decoder_that_overflows_half_precision_becomes_float32():
    model = tiny_model(HARTForT2IEnhanced)
    vae = model.vae_proxy[0]
    vae.decoder.conv_in.weight.mul_(1e4)
    vae.to(torch.float16)
    maps = 10 * smooth_maps(model, 1, 7).half()
    assert decode(model, maps).isfinite().all()
    assert vae.decoder.conv_in.weight.dtype is torch.float32


@torch.no_grad()
def test_small_maps_are_decoded_at_once(model):
    maps = smooth_maps(model, 2, 7)
    torch.testing.assert_close(decode_in_tiles(model, maps), decode(model, maps))


@torch.no_grad()
@pytest.mark.parametrize(("side", "tile", "overlap"), [(12, 8, 3), (13, 5, 2), (9, 8, 0)])
def test_tiles_stand_where_their_part_of_the_image_is(model, monkeypatch, side, tile, overlap):
    """With a decoder that looks at single positions only, tiles change nothing."""
    scale = model.vae_proxy[0].downsample

    def decode_positions(_, f_hat):
        return f_hat[:, :3].repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    monkeypatch.setattr("hart.engine.decoding.decode", decode_positions)
    maps = smooth_maps(model, 2, side)
    image = decode_in_tiles(model, maps, tile, overlap)
    torch.testing.assert_close(image, decode_positions(None, maps))


@pytest.mark.parametrize("side", range(9, 40))
def test_neighbours_share_what_they_must_and_nothing_is_left_out(side):
    starts = list(_starts(side, 8, 3))
    assert starts[0] == 0
    assert starts[-1] == side - 8
    assert all(0 < b - a <= 5 for a, b in pairwise(starts))


@torch.no_grad()
def test_no_step_at_the_seams_is_larger_than_the_image_has_anyway(model):
    maps = smooth_maps(model, 1, 24)
    whole, tiled = decode(model, maps), decode_in_tiles(model, maps, 12, 6)
    assert tiled.diff(dim=-1).abs().max() < 1.5 * whole.diff(dim=-1).abs().max()


def test_an_overlap_of_a_whole_tile_is_refused(model):
    with pytest.raises(ValueError, match=r"overlap must be within 0 \.\. 7 for tiles of 8: 8"):
        decode_in_tiles(model, smooth_maps(model, 1, 9), 8, 8)
