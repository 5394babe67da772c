"""The image decoder's steps with less work in them: the same image up to rounding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hart.modules.networks.basic_vae import Decoder, ResnetBlock, Upsample2x, nonlinearity

_TAPS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
"""By parity of a row of the doubled map: which of a kernel's three rows meet the same row before
doubling, for the two of them that it sees."""

STRIP = 32
"""Rows of a map that are converted and convolved at once on a CPU."""


class DecoderRunner:
    """As ``Decoder.forward`` in evaluation mode, up to rounding.

    Args:
        decoder: whose weights are used, in their own dtype.
        last_level: dtype of the products in the residual blocks of the highest resolution, where
            half of the work is; norms and sums keep the weights' dtype. None is the weights' too.
    """

    def __init__(self, decoder: Decoder, last_level: torch.dtype | None = None) -> None:
        self.decoder, self.last_level = decoder, last_level

    @torch.no_grad()
    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Features (B, z_channels, h, w) to an image (B, 3, f*h, f*w)."""
        decoder = self.decoder
        h = decoder.mid(decoder.conv_in(z))
        for level in reversed(decoder.up[1:]):
            h = _doubled(level.upsample, level(h))
        h = self._last_level(h)
        return decoder.conv_out(nonlinearity(decoder.norm_out(h)))

    def _last_level(self, h: torch.Tensor) -> torch.Tensor:
        level, dtype = self.decoder.up[0], self.last_level
        if dtype is None or len(level.attn) > 0:
            return level(h)
        for block in level.block:
            h = _residual_block(block, h, dtype)
        return h


def _residual_block(block: ResnetBlock, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    h = _product_in(dtype, block.conv1, nonlinearity(block.norm1(x)))
    h = _product_in(dtype, block.conv2, nonlinearity(block.norm2(h)))
    return h.add_(block.nin_shortcut(x))


def _product_in(dtype: torch.dtype, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A 3x3 convolution of ``x`` in ``dtype``; overwrites ``x``, whose room it takes if it fits.

    On a CPU strip by strip: what is copied stays in the caches, and no map comes anew from the
    operating system, which takes as long as a tenth of the products.
    """
    (B, C, H, W), weight = x.shape, conv.weight.to(dtype)
    bias = None if conv.bias is None else conv.bias.to(dtype)
    at_once = STRIP if x.device.type == "cpu" else H
    out = x if conv.out_channels == C else _empty(B, conv.out_channels, H, W, like=x)
    strip = _empty(B, C, at_once + 2, W, like=x, dtype=dtype).zero_()  # a row more on both sides
    for top in range(0, H, at_once):
        size = min(at_once, H - top)
        strip[:, :, 0] = strip[:, :, at_once]  # the last strip's last row, overwritten in x
        below = x[:, :, top : top + size + 1]
        strip[:, :, 1 : 1 + below.shape[2]] = below
        strip[:, :, 1 + below.shape[2] :] = 0
        out[:, :, top : top + size] = F.conv2d(
            strip[:, :, : size + 2], weight, bias, padding=(0, 1)
        )
    return out


def _doubled(upsample: Upsample2x, x: torch.Tensor) -> torch.Tensor:
    """As ``Upsample2x``: (B, C, H, W) to (B, C, 2H, 2W).

    The 3x3 kernel meets every position two or four times after doubling. So the four positions
    that come from one are convolved with 2x2 kernels of summed weights instead, which is 4/9 of the
    work. Not so in half precision, where the sums would be rounded once more, nor on a GPU, where
    nobody has measured it.
    """
    if x.device.type != "cpu" or x.dtype is not torch.float32:
        return upsample(x)
    conv, (H, W) = upsample.conv, x.shape[-2:]
    taps = torch.tensor(_TAPS, dtype=x.dtype, device=x.device)
    kernels = torch.einsum("oiyx,pry,qsx->pqoirs", conv.weight, taps, taps)
    out = _empty(len(x), conv.out_channels, 2 * H, 2 * W, like=x)
    for row in (0, 1):
        for column in (0, 1):
            kernel = kernels[row, column].contiguous(memory_format=torch.channels_last)
            y = F.conv2d(x, kernel, conv.bias, padding=1)
            out[:, :, row::2, column::2] = y[:, :, row : row + H, column : column + W]
    return out


def _empty(*shape: int, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Room on the device of ``like``, channels-last."""
    layout = torch.channels_last
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)
