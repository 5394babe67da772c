"""Multi-scale residual vector quantizer.

VAR (Tian et al., arXiv 2404.02905), algorithms 1 and 2: a feature map is written as a sum of
token maps of growing size, each quantizing what the smaller ones left over.

Shapes: B batch, Z (``Cvae``) latent channels, V codes, S stages, pn side of a stage's map,
P side of the last one. Token sequences are row by row.
"""

# ruff: noqa: N802, N815 (names are those of the published interface)

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from hart.modules.models.autoencoder.quantize.maps import (
    PatchNums,
    downsample,
    stage_sizes,
    to_map,
    to_rows,
    upsample,
)
from hart.modules.models.autoencoder.quantize.phi import (
    Phi,
    PhiNonShared,
    PhiPartiallyShared,
    PhiShared,
    build_phi,
)
from hart.utils.adapted import compute_device
from hart.utils.device import without_autocast

__all__ = ["Phi", "PhiNonShared", "PhiPartiallyShared", "PhiShared", "VectorQuantizer2"]


class Quantized(NamedTuple):
    """Result of quantizing a map for training."""

    f_hat: torch.Tensor  # (B, Z, H, W), value of the quantized map, gradient of the input
    rest: torch.Tensor  # (B, Z, H, W), what all stages left over, without gradient
    usages: torch.Tensor | None  # percentage of the codes that were used, 0-dimensional
    loss: torch.Tensor  # 0-dimensional
    ids: list[torch.Tensor]  # S tensors (B * pn^2,)


def nearest_code(
    rows_NC: torch.Tensor, codes_VC: torch.Tensor, using_znorm: bool = False
) -> torch.Tensor:
    """Index of the nearest code for each row: (N, C), (V, C) -> (N,) int64, without gradient.

    Nearest by Euclidean distance, with ``using_znorm`` by cosine similarity, in float32. The
    squared distance is evaluated as |x|^2 + |e|^2 - 2 x.e, because its rounding decides ties.
    """
    x, codes = rows_NC.detach().float(), codes_VC.detach().float()
    if using_znorm:
        return (F.normalize(x, dim=-1) @ F.normalize(codes, dim=-1).T).argmax(dim=1)
    lengths = x.square().sum(dim=1, keepdim=True) + codes.square().sum(dim=1)
    return torch.addmm(lengths, x, codes.T, alpha=-2).argmin(dim=1)


class VectorQuantizer2(nn.Module):
    """Plain multi-scale quantizer, in which every stage's map passes a residual convolution.

    Args:
        vocab_size: V.
        Cvae: Z.
        using_znorm: look codes up by cosine similarity instead of Euclidean distance.
        beta: weight of the commitment loss.
        default_qresi_counts: number of convolutions if none is shared; 0 means one per stage.
        v_patch_nums: default stages.
        quant_resi: share of the convolution in its output, the rest is the input.
        share_quant_resi: 0: one convolution per stage, 1: one, K: K of them.
        disable_quant_resi: stored only; no computation depends on it.
    """

    quant_resi: PhiShared | PhiPartiallyShared | PhiNonShared
    ema_vocab_hit_SV: torch.Tensor

    def __init__(
        self,
        vocab_size: int,
        Cvae: int,
        using_znorm: bool,
        beta: float = 0.25,
        default_qresi_counts: int = 0,
        v_patch_nums: PatchNums | None = None,
        quant_resi: float = 0.5,
        share_quant_resi: int = 4,
        disable_quant_resi: bool = False,
    ):
        super().__init__()
        if not v_patch_nums:
            raise ValueError(f"v_patch_nums is {v_patch_nums!r}, expected the sides of the stages")
        self.vocab_size, self.Cvae = vocab_size, Cvae
        self.using_znorm, self.beta = using_znorm, beta
        self.v_patch_nums = tuple(v_patch_nums)
        self.quant_resi_ratio = quant_resi
        self.disable_quant_resi = disable_quant_resi
        stages = len(self.v_patch_nums)
        self.quant_resi = build_phi(
            Cvae, quant_resi, share_quant_resi, default_qresi_counts or stages
        )
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(stages, vocab_size))
        self.record_hit = 0
        self.prog_si = -1
        self.embedding = nn.Embedding(vocab_size, Cvae)

    def extra_repr(self) -> str:
        return f"{self.v_patch_nums}, znorm={self.using_znorm}, beta={self.beta}"

    def eini(self, eini: float) -> None:
        """Re-initialise the codebook: ``> 0`` normal with that std, ``< 0`` uniform +-|eini|/V."""
        if eini > 0:
            nn.init.trunc_normal_(self.embedding.weight, std=eini)
        elif eini < 0:
            bound = abs(eini) / self.vocab_size
            nn.init.uniform_(self.embedding.weight, -bound, bound)

    def codes(self) -> torch.Tensor:
        """The whole codebook (V, Z)."""
        return self.embedding(torch.arange(self.vocab_size, device=compute_device(self.embedding)))

    def get_next_autoregressive_input(
        self,
        si: int,
        SN: int,
        f_hat: torch.Tensor,
        h_BChw: torch.Tensor,
        patch_nums: PatchNums | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add stage ``si`` of ``SN`` to ``f_hat`` (B, Z, P, P), in place.

        Args:
            h_BChw: the stage's codebook map (B, Z, pn, pn).

        Returns ``f_hat`` and the input of the next stage (B, Z, pn', pn'), which after the last
        stage is ``f_hat`` itself.
        """
        sizes = stage_sizes(patch_nums or self.v_patch_nums)
        if si == SN - 1:
            f_hat.add_(self._last_stage_map(SN, h_BChw))
            return f_hat, f_hat
        f_hat.add_(self._phi(si, SN)(upsample(h_BChw, sizes[-1])))
        return f_hat, downsample(f_hat, sizes[si + 1])

    def _last_stage_map(self, SN: int, h_BChw: torch.Tensor) -> torch.Tensor:
        return self._phi(SN - 1, SN)(h_BChw)

    def _phi(self, si: int, SN: int) -> nn.Module:
        if SN < 2:
            raise ValueError(f"the schedule has {SN} stage(s), expected at least 2")
        return self.quant_resi[si / (SN - 1)]

    def _stage_map(
        self, si: int, SN: int, small_BChw: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        """Contribution of a stage to the full map: upsampled, then convolved."""
        return self._phi(si, SN)(upsample(small_BChw, size))

    def _checked_sizes(
        self, f_BChw: torch.Tensor, patch_nums: PatchNums | None
    ) -> list[tuple[int, int]]:
        sizes = stage_sizes(patch_nums or self.v_patch_nums)
        if sizes[-1] != tuple(f_BChw.shape[-2:]):
            raise ValueError(
                f"the last stage is {sizes[-1]}, expected the size of the map to quantize, "
                f"{tuple(f_BChw.shape[-2:])}"
            )
        return sizes

    def _quantized(
        self,
        f_BChw: torch.Tensor,
        sizes: list[tuple[int, int]],
        using_znorm: bool,
        given: Mapping[int, torch.Tensor] | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Stage by stage ids (B, h*w), what they add to the map, and what is then left over.

        In float32; each stage quantizes what the ones before left. Only what is added has
        gradients, those of the codebook and the residual convolutions.
        """
        rest = f_BChw.detach().float()
        for si, size in enumerate(sizes):
            if given and si in given:
                ids_Bl = given[si].reshape(len(rest), -1)
            else:
                rows = to_rows(downsample(rest, size))
                ids_Bl = nearest_code(rows, self.codes(), using_znorm).view(len(rest), -1)
            h = self._stage_map(si, len(sizes), self._code_map(ids_Bl, size), sizes[-1])
            rest = rest - h.detach()
            yield ids_Bl, h, rest

    @torch.no_grad()
    def f_to_idxBl_or_fhat(
        self,
        f_BChw: torch.Tensor,
        to_fhat: bool,
        v_patch_nums: PatchNums | None = None,
        exception_stages: Mapping[int, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Quantize a map (B, Z, P, P).

        Args:
            to_fhat: return maps instead of ids.
            v_patch_nums: sides, or (height, width) pairs, of the stages; the last one must be
                the size of ``f_BChw`` (``ValueError`` otherwise).
            exception_stages: ids (B, pn^2) to use for a stage instead of the nearest codes.

        Returns S tensors: ids (B, pn^2), or the float32 maps (B, Z, P, P) summed up to each
        stage.
        """
        sizes = self._checked_sizes(f_BChw, v_patch_nums)
        f_hat, results = torch.zeros_like(f_BChw, dtype=torch.float32), []
        for ids_Bl, h, _ in self._quantized(f_BChw, sizes, self.using_znorm, exception_stages):
            f_hat = f_hat + h
            results.append(f_hat if to_fhat else ids_Bl)
        return results

    def _code_map(self, ids_Bl: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Codes of ids (B, h*w) as a float32 map (B, Z, h, w)."""
        return to_map(self.embedding(ids_Bl).float(), size)

    def embed_to_fhat(
        self,
        ms_h_BChw: Sequence[torch.Tensor],
        patch_nums: PatchNums | None = None,
        all_to_max_scale: bool = True,
        last_one: bool = False,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Sum codebook maps (B, Z, pn, pn), one per stage, in float32.

        Args:
            all_to_max_scale: every map is upsampled to the last stage's size; otherwise the sum
                is resized to each stage in turn, which serves visualisation only.
            last_one: return the final map instead of the list of all S sums.
        """
        sizes = stage_sizes(patch_nums or self.v_patch_nums)
        if len(ms_h_BChw) != len(sizes):
            raise ValueError(
                f"got {len(ms_h_BChw)} maps, expected one for each of {len(sizes)} stages"
            )
        sums = list(self._sums(ms_h_BChw, sizes, all_to_max_scale))
        return sums[-1] if last_one else sums

    def _sums(
        self,
        maps_BChw: Iterable[torch.Tensor],
        sizes: list[tuple[int, int]],
        all_to_max_scale: bool = True,
    ) -> Iterator[torch.Tensor]:
        """The feature map, in float32, after each of the first stages' codebook maps."""
        f_hat: torch.Tensor | None = None
        for si, (h_BChw, size) in enumerate(zip(maps_BChw, sizes, strict=False)):
            target = sizes[-1] if all_to_max_scale else size
            added = self._stage_map(si, len(sizes), h_BChw.float(), target)
            f_hat = added if f_hat is None else upsample(f_hat, target) + added
            yield f_hat

    @torch.no_grad()
    def idxBl_to_var_input(
        self, gt_ms_idx_Bl: Sequence[torch.Tensor], patch_nums: PatchNums | None = None
    ) -> torch.Tensor:
        """Inputs for teacher forcing from the tokens of the stages.

        Args:
            gt_ms_idx_Bl: per stage ids (B, pn^2) or vectors (B, pn^2, Z); the last stage is not
                used.

        Returns (B, sum of pn^2 without the first stage, Z), float32: for each later stage the
        sum of all earlier ones, reduced to its size.
        """
        sizes = stage_sizes(patch_nums or self.v_patch_nums)
        maps = (
            to_map(tokens.float(), size) if tokens.ndim == 3 else self._code_map(tokens, size)
            for tokens, size in zip(gt_ms_idx_Bl, sizes[:-1], strict=False)
        )
        inputs = [
            downsample(f_hat, size).flatten(2).transpose(1, 2)
            for f_hat, size in zip(self._sums(maps, sizes), sizes[1:], strict=True)
        ]
        return torch.cat(inputs, dim=1)

    def forward(
        self,
        f_BChw: torch.Tensor,
        ret_usages: bool = True,
        patch_nums: PatchNums | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, list[torch.Tensor]]:
        """Quantize (B, Z, P, P) with gradients.

        Returns ``(f_hat, usages, loss, ids)``: the quantized map with the gradient of the input
        (straight-through), the percentage of codes used or ``None``, the commitment plus
        codebook loss, and per stage the ids (B * pn^2,).
        """
        result = self.quantize(f_BChw, ret_usages, patch_nums)
        return result.f_hat, result.usages, result.loss, result.ids

    def quantize(
        self, f_BChw: torch.Tensor, ret_usages: bool = True, patch_nums: PatchNums | None = None
    ) -> Quantized:
        """Quantize with gradients, in float32 also under autocast; see ``Quantized``."""
        sizes = self._checked_sizes(f_BChw, patch_nums)
        hits_SV = torch.zeros(
            len(sizes), self.vocab_size, dtype=torch.float32, device=f_BChw.device
        )
        with without_autocast(f_BChw.device):
            f = f_BChw.float()
            f_hat, loss = torch.zeros_like(f), f.new_zeros(())
            stages = list(self._quantized(f, sizes, self.using_znorm))
            ids = [ids_Bl.flatten() for ids_Bl, _, _ in stages]
            for si, (_, h, _) in enumerate(stages):
                hits_SV[si] = torch.bincount(ids[si], minlength=self.vocab_size)
                f_hat = f_hat + h
                commitment = F.mse_loss(f_hat.detach(), f)
                loss = loss + self.beta * commitment + F.mse_loss(f_hat, f.detach())
        straight_through = f + (f_hat - f).detach()
        usages = self._record_usage(hits_SV)
        rest = stages[-1][2]
        return Quantized(
            straight_through, rest, usages if ret_usages else None, loss / len(sizes), ids
        )

    def _record_usage(self, hits_SV: torch.Tensor) -> torch.Tensor:
        """Percentage of codes used in any stage; in training over all processes."""
        if self.training:
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(hits_SV)
            self._update_hit_average(hits_SV)
        return (hits_SV.sum(dim=0) > 0).float().mean() * 100

    def _update_hit_average(self, hits_SV: torch.Tensor) -> None:
        average = self.ema_vocab_hit_SV
        if hits_SV.shape != average.shape:
            return  # Another schedule than the one that the average is about.
        keep = 0.0 if self.record_hit == 0 else 0.9 if self.record_hit < 100 else 0.99
        average.mul_(keep).add_(hits_SV, alpha=1 - keep)
        self.record_hit += 1
