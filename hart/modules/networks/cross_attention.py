"""Cross-attention from image tokens to the text, for models that have it in every block."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import nn

from hart.modules.networks.attention import attend


class MultiHeadCrossAttention(nn.Module):
    """Cross-attention from image tokens to the text of the same row.

    The public code mixes the rows of a batch here and cannot be run in the whole model; this is
    the per-row attention that its parameters describe, with the text's padding masked out.
    """

    def __init__(
        self, d_model: int, num_heads: int, attn_drop: float = 0.0, proj_drop: float = 0.0
    ):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = d_model // num_heads
        self.q_linear = nn.Linear(d_model, d_model)
        self.kv_linear = nn.Linear(d_model, 2 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.attn_drop = attn_drop
        self.proj_drop = nn.Dropout(proj_drop)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(
        self, x: torch.Tensor, cond: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map x (rows, n, C) with text cond (rows, T, C) to (rows, n, C).

        Args:
            mask: (rows, T), nonzero at real text positions. A row without any attends to all.
        """
        q = rearrange(self.q_linear(x), "r n (h d) -> r h n d", h=self.num_heads)
        k, v = rearrange(
            self.kv_linear(cond), "r t (two h d) -> two r h t d", two=2, h=self.num_heads
        )
        bias = get_xattn_mask(mask, q.dtype) if mask is not None else None
        dropout_p = self.attn_drop if self.training else 0.0
        out = attend(q, k, v, 1 / math.sqrt(self.head_dim), bias, dropout_p)
        return self.proj_drop(self.proj(rearrange(out, "r h n d -> r n (h d)")))


def get_xattn_mask(mask: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Additive mask (rows, 1, 1, T) of a text mask (rows, T); an empty row masks nothing."""
    visible = mask.bool() | ~mask.bool().any(dim=1, keepdim=True)
    bias = torch.zeros(visible.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~visible, -torch.inf)[:, None, None]
