"""Hybrid quantizer of HART (Tang et al., arXiv 2410.10812): discrete tokens plus a residual.

What the token maps leave over is kept as continuous tokens, which the transformer's diffusion
head predicts. Shapes as in ``var_quantize_multiple_res``.
"""

# ruff: noqa: N802 (method names are those of the published interface)

from __future__ import annotations

import random

import torch

from hart.modules.models.autoencoder.quantize.maps import PatchNums
from hart.modules.models.autoencoder.quantize.var_quantize_multiple_res import VectorQuantizer2

__all__ = ["HARTHybridQuantizer"]


class HARTHybridQuantizer(VectorQuantizer2):
    """``VectorQuantizer2`` whose last stage may carry continuous values.

    In generation the last stage's map is added as it is, without a residual convolution.
    Arguments as for ``VectorQuantizer2``.
    """

    def _last_stage_map(self, SN: int, h_BChw: torch.Tensor) -> torch.Tensor:
        return h_BChw

    def _update_hit_average(self, hits_SV: torch.Tensor) -> None:
        """The hybrid quantizer leaves the moving average as it was loaded."""

    @torch.no_grad()
    def f_to_idxBl_and_frest(
        self, f_BChw: torch.Tensor, v_patch_nums: PatchNums | None = None, **kwargs: object
    ) -> list[torch.Tensor]:
        """Quantize a map (B, Z, P, P), keeping what the last stage has to express.

        ``v_patch_nums`` as in ``f_to_idxBl_or_fhat``; further keywords are accepted and ignored.
        Codes are chosen by Euclidean distance, whatever ``using_znorm`` says.

        Returns S id tensors (B, pn^2), then the float32 rest before the last stage (B, P^2, Z).
        """
        sizes = self._checked_sizes(f_BChw, v_patch_nums)
        stages = list(self._quantized(f_BChw, sizes, using_znorm=False))
        before_last = stages[-2][2]
        return [ids_Bl for ids_Bl, _, _ in stages] + [
            before_last.flatten(2).transpose(1, 2).contiguous()
        ]

    def forward(
        self,
        f_BChw: torch.Tensor,
        ret_usages: bool = True,
        patch_nums: PatchNums | None = None,
        skip_continuous_prob: float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, list[torch.Tensor]]:
        """As ``VectorQuantizer2.forward``, then the remaining residual is added to the map.

        With probability ``skip_continuous_prob`` (one draw of ``random.random``) it is not, and
        the map is purely discrete.
        """
        result = self.quantize(f_BChw, ret_usages, patch_nums)
        keep_residual = random.random() >= skip_continuous_prob
        f_hat = result.f_hat + result.rest if keep_residual else result.f_hat
        return f_hat, result.usages, result.loss, result.ids
