"""Transformer blocks of VAR: those of HART's gpt2 family, modulated by the image's class.

Without ``shared_aln`` every block has its own projection of the class, as in ``basic_hart``. With
it one projection, outside the blocks, serves all of them, and each block adds a table of its own.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hart.modules.networks.basic_hart import AdaLNSelfAttn
from hart.modules.networks.basic_hart_enhanced import AdaLNSelfAttnEnhanced

__all__ = ["ClassAdaLNSelfAttn", "ClassAdaLNSelfAttnEnhanced"]


class ClassAdaLNSelfAttn(AdaLNSelfAttn):
    """VAR's block; arguments as for :class:`AdaLNSelfAttn`, by keyword."""

    def __init__(self, *, embed_dim: int, shared_aln: bool, disable_aln: bool, **kwargs):
        if disable_aln:
            raise ValueError("disable_aln must be False: every block of VAR is modulated")
        super().__init__(embed_dim=embed_dim, shared_aln=False, disable_aln=shared_aln, **kwargs)
        if shared_aln:
            self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, embed_dim) / math.sqrt(embed_dim))

    def modulation(
        self, cond_BD: torch.Tensor, context_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...] | None:
        """gamma1, gamma2, scale1, scale2, shift1, shift2, (rows, 1, C) each.

        Args:
            cond_BD: class embedding (rows, C); with ``shared_aln`` its projection (rows, 1, 6, C).
            context_mask: there is no text.
        """
        if hasattr(self, "ada_gss"):
            return (self.ada_gss + cond_BD).unbind(2)
        return super().modulation(cond_BD, context_mask)


class ClassAdaLNSelfAttnEnhanced(ClassAdaLNSelfAttn, AdaLNSelfAttnEnhanced):
    """VAR's block with feature caching; arguments as for :class:`AdaLNSelfAttnEnhanced`."""
