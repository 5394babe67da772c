"""Convolutional encoder and decoder of the image autoencoder.

The architecture is the VQGAN one (Esser et al., arXiv 2012.09841). Module names are those of
the published checkpoints. Shapes: B batch, C channels, H and W height and width in pixels of
the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hart.utils.device import dense_where_needed

__all__ = ["Decoder", "Encoder"]

NORM_GROUPS = 32


def nonlinearity(x: torch.Tensor) -> torch.Tensor:
    """SiLU; overwrites ``x`` where no gradient needs it, which saves a map of the image's size."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def Normalize(in_channels: int, num_groups: int = NORM_GROUPS) -> nn.GroupNorm:  # noqa: N802
    """Group norm with eps 1e-6; ``in_channels`` must be a multiple of ``num_groups``."""
    return nn.GroupNorm(num_groups, in_channels, eps=1e-6, affine=True)


class Upsample2x(nn.Module):
    """Nearest-neighbour doubling followed by a 3x3 convolution: (B, C, H, W) -> (B, C, 2H, 2W)."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Downsample2x(nn.Module):
    """Strided 3x3 convolution: (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, in_channels, kernel_size=3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The checkpoints expect padding on the right and at the bottom only.
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class ResnetBlock(nn.Module):
    """Pre-activation residual block: (B, in_channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, *, in_channels: int, out_channels: int | None = None, dropout: float = 0.0):
        super().__init__()
        out_channels = out_channels or in_channels
        self.in_channels, self.out_channels = in_channels, out_channels
        self.norm1 = Normalize(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = Normalize(out_channels)
        self.dropout = nn.Dropout(dropout) if dropout > 1e-6 else nn.Identity()
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.nin_shortcut = (
            nn.Conv2d(in_channels, out_channels, kernel_size=1)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(nonlinearity(self.norm1(x)))
        h = self.conv2(self.dropout(nonlinearity(self.norm2(h))))
        return h.add_(self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Single-head self-attention over all H*W positions, added to the input."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.norm = Normalize(in_channels)
        self.qkv = nn.Conv2d(in_channels, 3 * in_channels, kernel_size=1)
        self.proj_out = nn.Conv2d(in_channels, in_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, 1, C, H * W).transpose(-1, -2)
        q, k, v = dense_where_needed(*qkv.unbind(dim=1))  # each (B, 1 head, H*W, C)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.transpose(-1, -2).reshape(B, C, H, W))


def make_attn(in_channels: int, using_sa: bool = True) -> nn.Module:
    """An attention block, or the identity where attention is switched off."""
    return AttnBlock(in_channels) if using_sa else nn.Identity()


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, dropout: float, using_mid_sa: bool):
        super().__init__()
        self.block_1 = ResnetBlock(in_channels=channels, dropout=dropout)
        self.attn_1 = make_attn(channels, using_sa=using_mid_sa)
        self.block_2 = ResnetBlock(in_channels=channels, dropout=dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if there is any.

    The caller adds one of the two that change the resolution.
    """

    downsample: Downsample2x
    upsample: Upsample2x

    def __init__(self, widths: Sequence[int], dropout: float, using_sa: bool):
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(in_channels=a, out_channels=b, dropout=dropout) for a, b in pairwise(widths)
        )
        self.attn = nn.ModuleList(AttnBlock(width) for width in widths[1:] if using_sa)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn) > 0:
                x = self.attn[i](x)
        return x


class Encoder(nn.Module):
    """Image (B, in_channels, H, W) -> features (B, z_channels, H/f, W/f), f = 2^(levels - 1).

    Args:
        ch: channels of the first convolution.
        ch_mult: channels of each level as multiples of ``ch``, highest resolution first.
        num_res_blocks: residual blocks per level.
        double_z: twice as many output channels.
        using_sa, using_mid_sa: attention at the lowest resolution level / in the middle.
    """

    down: Any  # an nn.ModuleList of Level

    def __init__(
        self,
        *,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int = 2,
        dropout: float = 0.0,
        in_channels: int = 3,
        z_channels: int,
        double_z: bool = False,
        using_sa: bool = True,
        using_mid_sa: bool = True,
    ):
        super().__init__()
        self.ch, self.in_channels = ch, in_channels
        self.num_resolutions, self.num_res_blocks = len(ch_mult), num_res_blocks
        self.downsample_ratio = 2 ** (len(ch_mult) - 1)
        self.conv_in = nn.Conv2d(in_channels, ch, kernel_size=3, padding=1)

        lowest = self.num_resolutions - 1
        width = ch
        self.down = nn.ModuleList()
        for i, mult in enumerate(ch_mult):
            widths = [width] + [ch * mult] * num_res_blocks
            width = widths[-1]
            level = Level(widths, dropout, using_sa and i == lowest)
            if i != lowest:
                level.downsample = Downsample2x(width)
            self.down.append(level)

        self.mid = Middle(width, dropout, using_mid_sa)
        self.norm_out = Normalize(width)
        out_channels = 2 * z_channels if double_z else z_channels
        self.conv_out = nn.Conv2d(width, out_channels, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(x)
        for i, level in enumerate(self.down):
            h = level(h)
            if i != self.num_resolutions - 1:
                h = level.downsample(h)
        return self.conv_out(nonlinearity(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Features (B, z_channels, h, w) -> image (B, in_channels, f*h, f*w), f = 2^(levels - 1).

    Arguments as for ``Encoder``. A level has one residual block more than in the encoder.
    """

    up: Any  # an nn.ModuleList of Level

    def __init__(
        self,
        *,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int = 2,
        dropout: float = 0.0,
        in_channels: int = 3,
        z_channels: int,
        using_sa: bool = True,
        using_mid_sa: bool = True,
    ):
        super().__init__()
        self.ch, self.in_channels = ch, in_channels
        self.num_resolutions, self.num_res_blocks = len(ch_mult), num_res_blocks
        width = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z_channels, width, kernel_size=3, padding=1)
        self.mid = Middle(width, dropout, using_mid_sa)

        lowest = self.num_resolutions - 1
        levels = []
        for i in reversed(range(self.num_resolutions)):
            widths = [width] + [ch * ch_mult[i]] * (num_res_blocks + 1)
            width = widths[-1]
            level = Level(widths, dropout, using_sa and i == lowest)
            if i != 0:
                level.upsample = Upsample2x(width)
            levels.append(level)
        # Stored highest resolution first, as in the checkpoints, though evaluated in reverse.
        self.up = nn.ModuleList(reversed(levels))

        self.norm_out = Normalize(width)
        self.conv_out = nn.Conv2d(width, in_channels, kernel_size=3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.mid(self.conv_in(z))
        for i in reversed(range(self.num_resolutions)):
            h = self.up[i](h)
            if i != 0:
                h = self.up[i].upsample(h)
        return self.conv_out(nonlinearity(self.norm_out(h)))
