"""The decoder with less work in it draws what the decoder draws."""

from __future__ import annotations

import pytest
import torch

from hart.engine import decoder_runner
from hart.engine.decoder_runner import DecoderRunner, _doubled, _product_in
from hart.modules.networks.basic_vae import Decoder, Upsample2x


@pytest.fixture(params=[(1, 1), (1, 2, 2), (2, 1, 2), (1,)])
def decoder(request) -> Decoder:
    """With and without a shortcut in the last level; one level has attention there."""
    torch.manual_seed(3)
    return Decoder(ch=32, ch_mult=request.param, z_channels=4).eval()


def features(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 4, 5, 6, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_decoder_up_to_rounding(decoder, memory_format):
    decoder.to(memory_format=memory_format)
    z = features().contiguous(memory_format=memory_format)
    torch.testing.assert_close(DecoderRunner(decoder)(z), decoder(z), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_the_last_level_is_near_and_leaves_the_weights(decoder, dtype):
    weights = [parameter.clone() for parameter in decoder.parameters()]
    z, exact = features(), decoder(features())
    image = DecoderRunner(decoder, last_level=dtype)(z)
    assert image.dtype is torch.float32
    assert (image - exact).abs().max() < 0.02 * exact.abs().max()
    assert image.equal(exact) == (len(decoder.up[0].attn) > 0)  # such a level stays as it is
    assert z.equal(features())
    assert all(map(torch.equal, decoder.parameters(), weights))


@torch.no_grad()
@pytest.mark.parametrize("strip", [1, 4, 10, 11, 64])
@pytest.mark.parametrize("channels", [(3, 3), (3, 5)])
def test_strips_convolve_what_the_whole_map_does(monkeypatch, strip, channels):
    monkeypatch.setattr(decoder_runner, "STRIP", strip)
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(*channels, 3, padding=1), torch.randn(2, channels[0], 11, 6)
    expected = conv(x)
    torch.testing.assert_close(_product_in(torch.float32, conv, x.clone()), expected)
    half = _product_in(torch.bfloat16, conv, x.clone())
    assert half.dtype is torch.float32
    assert 0 < (half - expected).abs().max() < 0.03


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3), (8, 8)])
def test_doubling_convolves_every_position_as_if_it_had_been_doubled_first(size):
    torch.manual_seed(0)
    upsample = Upsample2x(6)
    x = torch.randn(2, 6, *size)
    torch.testing.assert_close(_doubled(upsample, x), upsample(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_the_decoder_too(decoder):
    decoder.to("cuda")
    z = features().to("cuda")
    torch.testing.assert_close(DecoderRunner(decoder)(z), decoder(z), rtol=1e-3, atol=1e-3)
