"""The diffusion head's network for one image's tokens, without what is the same in every step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from hart.modules.diffusion.diffloss import guided
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
        return guided(self._denoise, self.condition, self.cfg, x.to(self.dtype), t)

    def _denoise(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        y = condition + self.net.time_embed(t[:1])
        size = ROWS_AT_ONCE if x.device.type == "cpu" else max(1, len(x))
        pieces = zip(x.split(size), y.split(size), strict=True)
        return torch.cat([self._denoise_piece(*piece) for piece in pieces])

    def _denoise_piece(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """As ``SimpleMLPAdaLN.denoise``, with one activation of the condition for all blocks."""
        net, activated = self.net, F.silu(y)
        x = net.input_proj(x)
        blocks: Any = net.res_blocks
        for block in blocks:
            x = block.modulated(x, block.adaLN_modulation[1](activated))
        final = net.final_layer
        return final.modulated(x, final.adaLN_modulation[1](activated))
