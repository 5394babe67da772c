"""The diffusion head's network for one image's tokens, without what is the same in every step."""

from __future__ import annotations

import torch

from hart.modules.diffusion.network import SimpleMLPAdaLN

ROWS_AT_ONCE = 1024
"""Rows of a piece on a CPU; bounds the memory of the modulations."""


class GuidedDenoiser:
    """As ``SimpleMLPAdaLN.forward_with_cfg``, or ``forward`` where guidance is off.

    The conditions are projected once instead of in every step, and the step number, which all
    rows share, is embedded once instead of for every row.

    Args:
        net: the network.
        condition: (rows, z_channels); with guidance the second half is unconditional.
        cfg: guidance scale; exactly 1.0 means none, as for ``DiffLoss.sample``.
    """

    def __init__(self, net: SimpleMLPAdaLN, condition: torch.Tensor, cfg: float) -> None:
        self.net, self.cfg = net, cfg
        self.dtype = net.input_proj.weight.dtype
        self.condition = net.cond_embed(condition.to(self.dtype))

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Noisy residuals (rows, channels) and step numbers, all equal, to the output."""
        step = self.net.time_embed(t[:1])
        if self.cfg == 1.0:
            return self._denoise(x.to(self.dtype), self.condition + step)
        half = x[: len(x) // 2].to(self.dtype)
        with_text, without = (self._denoise(half, c + step) for c in self.condition.chunk(2))
        channels = self.net.in_channels
        noise = (1 + self.cfg) * with_text[:, :channels] - self.cfg * without[:, :channels]
        halves = [torch.cat((noise, out[:, channels:]), dim=1) for out in (with_text, without)]
        return torch.cat(halves)

    def _denoise(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        size = ROWS_AT_ONCE if x.device.type == "cpu" else max(1, len(x))
        pieces = zip(x.split(size), y.split(size), strict=True)
        return torch.cat([self.net.denoise(*piece) for piece in pieces])
