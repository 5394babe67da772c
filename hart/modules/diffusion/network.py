"""The denoising network of the residual diffusion head.

A residual MLP with adaptive layer norm, as in MAR (Li et al. 2024, arXiv:2406.11838).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.modules.networks import basic_hart
from hart.modules.networks.constants import Constants
from hart.utils.adapted import input_dtype

MAX_PERIOD = 10000
"""Of the slowest of a step's sines and cosines."""


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm's affine part: ``x * (1 + scale) + shift``."""
    return x * (1 + scale) + shift


class TimestepEmbedder(basic_hart.TimestepEmbedder):
    """Sinusoidal embedding of diffusion steps (n,), followed by a two-layer MLP: (n, hidden_size).

    In the dtype of the weights.
    """

    def __init__(self, hidden_size: int, frequency_embedding_size: int = 256) -> None:
        super().__init__(hidden_size, frequency_embedding_size)
        self.constants = Constants()

    @staticmethod
    def timestep_embedding(t: Tensor, dim: int, max_period: float = MAX_PERIOD) -> Tensor:
        """Steps (n,) to (n, dim) float32: cosines, then sines; an odd ``dim`` ends in a zero.

        ``max_period`` is the inverse of the frequency that the falling series approaches.
        """
        return _embedded(t, _frequencies(dim // 2, max_period).to(t.device), dim)

    def forward(self, t: Tensor) -> Tensor:
        """(n,) to (n, hidden_size)."""
        size = self.frequency_embedding_size
        frequencies = self.constants.get(t.device, _frequencies, size // 2, MAX_PERIOD)
        return self.mlp(_embedded(t, frequencies, size).to(input_dtype(self.mlp[0], self)))


def _frequencies(count: int, max_period: float) -> Tensor:
    """(count,) float32 on the CPU, falling from 1 towards 1 / max_period."""
    steps = torch.arange(count, dtype=torch.float32, device="cpu")
    return torch.exp(-math.log(max_period) * steps / count)


def _embedded(t: Tensor, frequencies: Tensor, dim: int) -> Tensor:
    angles = t[:, None].float() * frequencies
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
    return F.pad(embedding, (0, dim % 2))


class ResBlock(nn.Module):
    """Residual MLP block whose normalised input and output are modulated by a condition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.in_ln = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels)
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 3 * channels))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` and condition ``y``, both ``(n, channels)``, to ``(n, channels)``."""
        return self.modulated(x, self.adaLN_modulation(y))

    def modulated(self, x: Tensor, modulation: Tensor) -> Tensor:
        """:meth:`forward` for what ``adaLN_modulation`` gives."""
        shift, scale, gate = modulation.chunk(3, dim=-1)
        return x + gate * self.mlp(modulate(self.in_ln(x), shift, scale))


class FinalLayer(nn.Module):
    """Modulated norm and output projection."""

    def __init__(self, model_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(model_channels, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(model_channels, out_channels)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(model_channels, 2 * model_channels)
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """``x`` and condition ``c``, both ``(n, model_channels)``, to ``(n, out_channels)``."""
        return self.modulated(x, self.adaLN_modulation(c))

    def modulated(self, x: Tensor, modulation: Tensor) -> Tensor:
        """:meth:`forward` for what ``adaLN_modulation`` gives."""
        shift, scale = modulation.chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class SimpleMLPAdaLN(nn.Module):
    """The denoising network.

    Args:
        in_channels: Width of a token's residual.
        model_channels: Hidden width.
        out_channels: Output width: noise, and the same number again for the variance.
        z_channels: Width of the condition.
        num_res_blocks: Number of residual blocks.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        z_channels: int,
        num_res_blocks: int,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.model_channels = model_channels
        self.out_channels = out_channels
        self.num_res_blocks = num_res_blocks
        self.time_embed = TimestepEmbedder(model_channels)
        self.cond_embed = nn.Linear(z_channels, model_channels)
        self.input_proj = nn.Linear(in_channels, model_channels)
        self.res_blocks = nn.ModuleList(ResBlock(model_channels) for _ in range(num_res_blocks))
        self.final_layer = FinalLayer(model_channels, out_channels)
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Xavier linears, zero modulation and output: the fresh network predicts zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for index in (0, 2):
            nn.init.normal_(self.time_embed.mlp[index].get_parameter("weight"), std=0.02)
        final = self.final_layer
        zeroed = [block.get_submodule("adaLN_modulation.1") for block in self.res_blocks]
        for layer in (*zeroed, final.adaLN_modulation[1], final.linear):
            nn.init.zeros_(layer.get_parameter("weight"))

    @property
    def dtype(self) -> torch.dtype:
        """What residuals and conditions are converted to."""
        return input_dtype(self.input_proj, self)

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Estimate the noise in ``x``.

        Args:
            x: Noisy residuals, ``(n, in_channels)``, any float dtype.
            t: Step numbers of the 1000-step process, int64 ``(n,)``.
            c: Conditions, ``(n, z_channels)``, any float dtype.

        Returns:
            ``(n, out_channels)`` in the dtype of the weights or of the autocast context.
        """
        dtype = self.dtype
        y = self.time_embed(t) + self.cond_embed(c.to(dtype))
        return self.denoise(x.to(dtype), y)

    def denoise(self, x: Tensor, y: Tensor) -> Tensor:
        """The part behind the embeddings: ``y`` is ``time_embed(t) + cond_embed(c)``."""
        x = self.input_proj(x)
        for block in self.res_blocks:
            x = block(x, y)
        return self.final_layer(x, y)

    def forward_with_cfg(self, x: Tensor, t: Tensor, c: Tensor, cfg_scale: float) -> Tensor:
        """As ``forward``, with guidance ``(1 + s) * conditional - s * unconditional`` of the noise.

        The second half of ``x`` is not looked at; conditional rows of ``c`` come first. Both
        halves of the result hold the guided noise; the variance part is each half's own.
        """
        return with_guidance(self, x, t, c, cfg_scale)


def with_guidance(
    net: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    c: Tensor,
    cfg_scale: float,
) -> Tensor:
    """:meth:`SimpleMLPAdaLN.forward_with_cfg` of anything that is called as the network is."""
    half, channels = x[: len(x) // 2], x.shape[1]
    output = net(torch.cat([half, half]), t, c)
    noise, variance = output.split([channels, output.shape[1] - channels], dim=1)
    conditional, unconditional = noise.chunk(2)
    guided = (1 + cfg_scale) * conditional - cfg_scale * unconditional
    return torch.cat([torch.cat([guided, guided]), variance], dim=1)
