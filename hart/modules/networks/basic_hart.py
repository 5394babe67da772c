"""Transformer blocks of HART; names and parameter names are those of published checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hart.modules.networks.attention import LlamaAttention, SelfAttention
from hart.modules.networks.cross_attention import MultiHeadCrossAttention, get_xattn_mask
from hart.modules.networks.kv_cache import LayerKVCache
from hart.modules.networks.norms import LlamaRMSNorm, LlamaRMSNormFused
from hart.modules.networks.rope import (
    FusedLlamaRotaryEmbedding1D,
    FusedLlamaRotaryEmbedding1DWithPos,
    FusedLlamaRotaryEmbedding2DWithPos,
    FusedRoPEFunc,
    FusedRoPEFuncWithPos,
    LlamaRotaryEmbedding,
    LlamaRotaryEmbedding1D,
    MaskIndex,
    apply_rotary_pos_emb,
    get_position_ids,
    get_position_ids_1d,
    rotate_half,
)
from hart.modules.networks.utils import DropPath
from hart.utils.adapted import input_dtype

__all__ = [
    "FFN",
    "AdaLNBeforeHead",
    "AdaLNSelfAttn",
    "FusedLlamaRotaryEmbedding1D",
    "FusedLlamaRotaryEmbedding1DWithPos",
    "FusedLlamaRotaryEmbedding2DWithPos",
    "FusedRoPEFunc",
    "FusedRoPEFuncWithPos",
    "LlamaAttention",
    "LlamaMLP",
    "LlamaRMSNorm",
    "LlamaRMSNormFused",
    "LlamaRotaryEmbedding",
    "LlamaRotaryEmbedding1D",
    "MultiHeadCrossAttention",
    "SelfAttention",
    "TimestepEmbedder",
    "apply_rotary_pos_emb",
    "context_pooling",
    "get_position_ids",
    "get_position_ids_1d",
    "get_xattn_mask",
    "rotate_half",
]


class FFN(nn.Module):
    """GPT-2 MLP, ``fc2(GELU_tanh(fc1(x)))``, on (rows, n, C)."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        drop: float = 0.0,
        fused_if_available: bool = True,
        act_func: str = "gelu",
    ):
        super().__init__()
        if act_func != "gelu":
            raise ValueError(f"act_func must be 'gelu', got {act_func!r}")
        self.fc1 = nn.Linear(in_features, hidden_features or in_features)
        self.fc2 = nn.Linear(hidden_features or in_features, out_features or in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.fc2(self.hidden(x)))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """What the last product takes."""
        return F.gelu(self.fc1(x), approximate="tanh")

    @property
    def last(self) -> nn.Linear:
        """The last product."""
        return self.fc2


class LlamaMLP(nn.Module):
    """Gated MLP, ``down(SiLU(gate(x)) * up(x))``, without biases and dropout, on (rows, n, C)."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        drop: float = 0.0,
        fused_if_available: bool = True,
    ):
        super().__init__()
        hidden = hidden_features or in_features
        self.gate_proj = nn.Linear(in_features, hidden, bias=False)
        self.up_proj = nn.Linear(in_features, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, out_features or in_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.hidden(x))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """What the last product takes."""
        return F.silu(self.gate_proj(x)) * self.up_proj(x)

    @property
    def last(self) -> nn.Linear:
        """The last product."""
        return self.down_proj


def mlp_hidden_size(embed_dim: int, mlp_ratio: float, mlp_type: str) -> int:
    """Hidden width: ``round(C * ratio)`` for gpt2, 2/3 of it rounded up to 256 for llama."""
    if mlp_type == "gpt2":
        return round(embed_dim * mlp_ratio)
    return 256 * (int(embed_dim * mlp_ratio * 2 / 3 + 255) // 256)


class TimestepEmbedder(nn.Module):
    """Sinusoidal embedding of an integer followed by an MLP; used for the stage level."""

    def __init__(self, hidden_size: int, frequency_embedding_size: int = 256):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(frequency_embedding_size, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
        )
        self.frequency_embedding_size = frequency_embedding_size

    @staticmethod
    def timestep_embedding(t: torch.Tensor, dim: int, max_period: float = 10000) -> torch.Tensor:
        """(n,) to (n, dim) float32: cosines first, then sines; an odd ``dim`` ends in a zero."""
        half = dim // 2
        k = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t[:, None].float() * torch.exp(-math.log(max_period) * k / half)
        embedding = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return F.pad(embedding, (0, dim % 2))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """(n,) to (n, C); a 2-D input stands for its first row and gives (1, n, C)."""
        if t.ndim == 2:
            return self.forward(t[0])[None]
        embedding = self.timestep_embedding(t, self.frequency_embedding_size)
        return self.mlp(embedding.to(input_dtype(self.mlp[0], self)))


def context_pooling(
    context_tokens: torch.Tensor, context_mask: torch.Tensor | None = None, mode: str = "avg"
) -> torch.Tensor:
    """Pool text (rows, T, C) to (rows, C); a 2-D input is returned as it is.

    ``"max"`` covers all T positions, padding included; ``"avg"`` only those with a nonzero mask.
    """
    if context_tokens.ndim == 2:
        return context_tokens
    if context_tokens.shape[1] <= 1:
        raise ValueError(f"pooling needs more than one text position, got {context_tokens.shape}")
    if mode == "max":
        return context_tokens.amax(dim=1)
    if mode == "avg":
        if context_mask is None:
            raise ValueError("mode 'avg' needs context_mask")
        weights = context_mask[..., None].to(context_tokens.dtype)
        return (context_tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
    raise NotImplementedError(f"pooling mode must be 'max' or 'avg', got {mode!r}")


Compute = Callable[[torch.Tensor, MaskIndex | None], torch.Tensor]
"""A module's output, before gamma, from the residual stream (rows, n, C) and which positions of the
map that is."""

Output = Callable[[str, int, Compute, torch.Tensor, MaskIndex | None], torch.Tensor]
"""What ``"attn"`` or ``"mlp"`` puts out at a stage, from what computes it and its arguments."""


def _computed(
    site: str, si: int, compute: Compute, x: torch.Tensor, m_maskgit: MaskIndex | None
) -> torch.Tensor:
    return compute(x, m_maskgit)


class AdaLNSelfAttn(nn.Module):
    """One transformer block: attention and MLP, each behind the block's norm and modulation.

    ``x + gamma1 * attn(n(x) * (1 + scale1) + shift1)``, then the same with the MLP. Separate AdaLN
    computes the six modulation vectors from the pooled text, shared AdaLN adds them to a table,
    plain blocks (``disable_aln`` without ``shared_aln``) have none.
    """

    attention_classes: ClassVar[dict[str, type[nn.Module]]] = {
        "gpt2": SelfAttention,
        "llama": LlamaAttention,
    }
    mlp_classes: ClassVar[dict[str, type[nn.Module]]] = {"gpt2": FFN, "llama": LlamaMLP}
    attn: Any  # of these classes, or what somebody has put in its place
    ffn: Any

    def __init__(
        self,
        block_idx: int,
        last_drop_p: float,
        embed_dim: int,
        cond_dim: int,
        shared_aln: bool,
        norm_layer,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        attn_l2_norm: bool = False,
        flash_if_available: bool = False,
        fused_if_available: bool = True,
        mlp_type: str = "gpt2",
        attn_type: str = "gpt2",
        gpt2_mlp_act_func: str = "gelu",
        max_position_embeddings: int = 4096,
        patch_nums: tuple[int, ...] | None = None,
        context_token: int = 0,
        disable_aln: bool = False,
        sep_aln_pooling_mode: str = "max",
        use_cross_attn: bool = False,
    ):
        super().__init__()
        for name, value in (("attn_type", attn_type), ("mlp_type", mlp_type)):
            if value not in self.attention_classes:
                raise NotImplementedError(f"{name} must be 'gpt2' or 'llama', got {value!r}")
        self.block_idx, self.last_drop_p = block_idx, last_drop_p
        self.C, self.D = embed_dim, cond_dim
        self.shared_aln, self.disable_aln = shared_aln, disable_aln
        self.sep_aln_pooling_mode = sep_aln_pooling_mode
        self.context_token = context_token
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        attention_options: dict[str, Any] = {
            "embed_dim": embed_dim,
            "num_heads": num_heads,
            "attn_drop": attn_drop,
            "proj_drop": drop,
            "attn_l2_norm": attn_l2_norm,
            "flash_if_available": flash_if_available,
        }
        if attn_type == "llama":
            attention_options.update(
                patch_nums=patch_nums,
                max_position_embeddings=max_position_embeddings,
                context_token=context_token,
            )
        self.attn = self.attention_classes[attn_type](block_idx, **attention_options)
        self.cross_attn = (
            MultiHeadCrossAttention(embed_dim, num_heads, attn_drop, drop)
            if use_cross_attn
            else None
        )
        self.ffn = self.mlp_classes[mlp_type](
            embed_dim, mlp_hidden_size(embed_dim, mlp_ratio, mlp_type), drop=drop
        )
        self.ln_wo_grad = norm_layer(embed_dim, elementwise_affine=False)
        if not disable_aln:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(cond_dim, 6 * embed_dim))
        elif shared_aln:
            self.scale_shift_table = nn.Parameter(torch.randn(6, embed_dim) / math.sqrt(embed_dim))
        self.fused_add_norm_fn = None

    def modulation(
        self, cond_BD: torch.Tensor, context_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...] | None:
        """gamma1, gamma2, scale1, scale2, shift1, shift2, (rows, 1, C) each; None if plain."""
        if not self.disable_aln:
            pooled = context_pooling(cond_BD, context_mask, self.sep_aln_pooling_mode)
            six = self.ada_lin(pooled).view(-1, 1, 6, self.C)
        elif self.shared_aln:
            pooled = context_pooling(cond_BD, context_mask, "avg")
            six = (self.scale_shift_table + pooled[:, None]).view(-1, 1, 6, self.C)
        else:
            return None
        return six.unbind(2)

    def forward(
        self,
        x: torch.Tensor,
        cond_BD: torch.Tensor,
        attn_bias: torch.Tensor | None,
        si: int = -1,
        context_position_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        m_maskgit: MaskIndex | None = None,
        *,
        kv_cache: LayerKVCache | None = None,
        output: Output = _computed,
    ) -> torch.Tensor:
        """Map (rows, n, C) to (rows, n, C).

        Args:
            cond_BD: embedded text (rows, T, C).
            attn_bias, si, context_position_ids, context_mask, m_maskgit, kv_cache: as in
                :meth:`LlamaAttention.forward`.
            output: gives what attention and MLP put out; by default what they compute.
        """
        modulation = self.modulation(cond_BD, context_mask)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation or (None,) * 6

        def attend(x: torch.Tensor, m_maskgit: MaskIndex | None) -> torch.Tensor:
            normed = self.norm_and_modulate(x, scale1, shift1)
            positions = (si, context_position_ids, context_mask, m_maskgit)
            return self.attn(normed, attn_bias, *positions, kv_cache=kv_cache)

        def feed_forward(x: torch.Tensor, m_maskgit: MaskIndex | None) -> torch.Tensor:
            return self._feed_forward(x, scale2, shift2)

        out = output("attn", si, attend, x, m_maskgit)
        x = x + self.drop_path(out if gamma1 is None else out * gamma1)
        x = self._add_cross_attention(x, cond_BD, context_mask, si)
        out = output("mlp", si, feed_forward, x, m_maskgit)
        return x + self.drop_path(out if gamma2 is None else out * gamma2)

    def _feed_forward(self, x, scale, shift) -> torch.Tensor:
        """MLP of the residual stream (rows, n, C), before gamma."""
        return self.ffn(self.norm_and_modulate(x, scale, shift))

    def norm_and_modulate(
        self, x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None
    ) -> torch.Tensor:
        """``n(x) * (1 + scale) + shift``, or ``n(x)`` in plain blocks; (rows, n, C)."""
        normed = self.ln_wo_grad(x)
        return normed if scale is None else normed * (1 + scale) + shift

    def _add_cross_attention(self, x, cond_BD, context_mask, si: int) -> torch.Tensor:
        """Image tokens attend to the text, if they do; the text (all of stage 0) passes through."""
        if self.cross_attn is None or si == 0:
            return x
        first_image_token = self.context_token if si == -1 else 0
        text, image = x[:, :first_image_token], x[:, first_image_token:]
        return torch.cat((text, image + self.cross_attn(image, cond_BD, context_mask)), dim=1)

    def forward_function(
        self,
        x_BLC: torch.Tensor,
        cond_BD_or_gss: torch.Tensor,
        attn_bias: torch.Tensor | None,
        mask: MaskIndex | None,
        context_position_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Positional form of :meth:`forward` in training (``si`` -1), for checkpointing."""
        return self.forward(
            x_BLC,
            cond_BD_or_gss,
            attn_bias,
            -1,
            context_position_ids,
            context_mask,
            mask,
        )


class AdaLNBeforeHead(nn.Module):
    """Norm with text-dependent scale and shift in front of the token head."""

    def __init__(self, C: int, D: int, norm_layer):
        super().__init__()
        self.C, self.D = C, D
        self.ln_wo_grad = norm_layer(C, elementwise_affine=False)
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(D, 2 * C))

    def forward(self, x_BLC: torch.Tensor, cond_BD: torch.Tensor) -> torch.Tensor:
        """(rows, n, C) and text (rows, T, D) to (rows, n, C)."""
        pooled = context_pooling(cond_BD, mode="max")
        scale, shift = self.ada_lin(pooled).view(-1, 1, 2, self.C).unbind(2)
        return self.ln_wo_grad(x_BLC) * (1 + scale) + shift
