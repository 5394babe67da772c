"""Self-attention of both families, and the choice of the attention kernel."""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from hart.modules.networks.constants import Constants
from hart.modules.networks.kv_cache import LayerKVCache
from hart.modules.networks.rope import (
    LlamaRotaryEmbedding,
    LlamaRotaryEmbedding1D,
    MaskIndex,
    apply_rotary_pos_emb,
    get_position_ids,
)
from hart.utils.adapted import is_bare
from hart.utils.device import dense_where_needed

MAX_LOG_TEMPERATURE = math.log(100)


@lru_cache(maxsize=1)
def _flash_attention():
    """``flash_attn_func`` of the flash-attn package, None where it is not installed."""
    if importlib.util.find_spec("flash_attn") is None:
        return None
    from flash_attn import flash_attn_func

    return flash_attn_func


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    attn_bias: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    flash_if_available: bool = True,
) -> torch.Tensor:
    """Softmax attention on (rows, H, n, d); the only place that chooses among kernels.

    The flash-attn package serves half-precision CUDA tensors without bias, torch's
    scaled-dot-product attention everything else.
    """
    flash = _flash_attention() if flash_if_available and q.is_cuda and attn_bias is None else None
    if flash is not None and q.dtype in (torch.float16, torch.bfloat16):
        out = flash(
            *(t.transpose(1, 2) for t in (q, k, v)), dropout_p=dropout_p, softmax_scale=scale
        )
        return out.transpose(1, 2)
    if attn_bias is not None:
        attn_bias = attn_bias.to(q.dtype)
    q, k, v = dense_where_needed(q, k, v)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=attn_bias, scale=scale, dropout_p=dropout_p
    )


class _AttentionBase(nn.Module):
    """What both families share: projections with a fixed zero key bias, scaling, KV cache."""

    zero_k_bias: torch.Tensor

    def __init__(
        self,
        block_idx: int,
        embed_dim: int,
        num_heads: int,
        attn_drop: float,
        proj_drop: float,
        attn_l2_norm: bool,
        flash_if_available: bool,
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}"
            )
        self.block_idx = block_idx
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.attn_l2_norm = attn_l2_norm
        self.flash_if_available = flash_if_available
        self.scale = 1.0 if attn_l2_norm else 0.25 / math.sqrt(self.head_dim)
        if attn_l2_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, num_heads, 1, 1), math.log(4.0)))
        self.q_bias = nn.Parameter(torch.zeros(embed_dim))
        self.v_bias = nn.Parameter(torch.zeros(embed_dim))
        self.register_buffer("zero_k_bias", torch.zeros(embed_dim))
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.attn_drop = attn_drop
        self._own_cache: LayerKVCache | None = None

    def kv_caching(self, enable: bool) -> None:
        """Give the module a fresh KV cache of its own, or take it away.

        The sampler does not need it: it passes its own cache to ``forward``.
        """
        self._own_cache = LayerKVCache() if enable else None

    @property
    def caching(self) -> bool:
        return self._own_cache is not None

    @property
    def cached_k(self) -> torch.Tensor | None:
        return self._own_cache.k if self._own_cache else None

    @property
    def cached_v(self) -> torch.Tensor | None:
        return self._own_cache.v if self._own_cache else None

    @property
    def qkv_is_bare(self) -> bool:
        """Whether the weight of the projection to queries, keys and values is all of it."""
        return is_bare(self._qkv, nn.Linear) and self._qkv.bias is None

    def queries_keys_values(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(rows, n, C) to queries, keys and values before rotary, (rows, H, n, d) each.

        Only where :attr:`qkv_is_bare`.
        """
        return self._split(F.linear(x, self._qkv.weight, self._qkv_bias()))

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As :meth:`queries_keys_values`, whatever the projection is."""
        if self.qkv_is_bare:
            qkv = F.linear(x, self._qkv.weight, self._qkv_bias())
        else:
            qkv = self._qkv(x)
            qkv = qkv + self._qkv_bias().to(qkv.dtype)
        return self._split(qkv)

    def _qkv_bias(self) -> torch.Tensor:
        return torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))

    def _split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(rows, n, 3 C) to queries, keys and values (rows, H, n, d), normalised if configured."""
        q, k, v = rearrange(qkv, "r n (three h d) -> three r h n d", three=3, h=self.num_heads)
        if self.attn_l2_norm:
            temperature = self.scale_mul_1H11.clamp_max(MAX_LOG_TEMPERATURE).exp()
            q = (F.normalize(q, dim=-1, eps=1e-12) * temperature).to(v.dtype)
            k = F.normalize(k, dim=-1, eps=1e-12).to(v.dtype)
        return q, k, v

    @property
    def _qkv(self) -> nn.Linear:
        """The family's projection to queries, keys and values."""
        raise NotImplementedError

    def _attend_and_project(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        attn_bias: torch.Tensor | None,
        kv_cache: LayerKVCache | None,
    ) -> torch.Tensor:
        cache = kv_cache if kv_cache is not None else self._own_cache
        if cache is not None:
            k, v = cache.append(k, v)
        out = attend(
            q,
            k,
            v,
            self.scale,
            attn_bias,
            self.attn_drop if self.training else 0.0,
            self.flash_if_available,
        )
        return self.proj_drop(self.proj(rearrange(out, "r h n d -> r n (h d)")))


class SelfAttention(_AttentionBase):
    """GPT-2 style self-attention: positions are part of the embeddings.

    ``forward(x, attn_bias)`` maps (rows, n, C) to (rows, n, C). ``si``, the context arguments and
    ``m_maskgit`` are accepted because every attention is called alike; they have no effect here.
    """

    def __init__(
        self,
        block_idx: int,
        embed_dim: int = 768,
        num_heads: int = 12,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        attn_l2_norm: bool = False,
        flash_if_available: bool = True,
    ):
        super().__init__(
            block_idx, embed_dim, num_heads, attn_drop, proj_drop, attn_l2_norm, flash_if_available
        )
        self.mat_qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)

    @property
    def _qkv(self) -> nn.Linear:
        return self.mat_qkv

    def forward(
        self,
        x: torch.Tensor,
        attn_bias: torch.Tensor | None,
        si: int = -1,
        context_position_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        m_maskgit: MaskIndex | None = None,
        *,
        kv_cache: LayerKVCache | None = None,
    ) -> torch.Tensor:
        q, k, v = self._project(x)
        return self._attend_and_project(q, k, v, attn_bias, kv_cache)


class LlamaAttention(_AttentionBase):
    """Llama style self-attention with rotary positions.

    The stage index says which table applies: the text's 1-D positions at ``si == 0``, the map's
    2-D grid plus the text offset at ``si > 0``, and both one after the other in training (-1).
    """

    def __init__(
        self,
        block_idx: int,
        patch_nums: tuple[int, ...],
        embed_dim: int = 768,
        num_heads: int = 12,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        max_position_embeddings: int = 4096,
        rope_theta: float = 10000,
        flash_if_available: bool = True,
        attn_l2_norm: bool = False,
        context_token: int = 0,
    ):
        super().__init__(
            block_idx, embed_dim, num_heads, attn_drop, proj_drop, attn_l2_norm, flash_if_available
        )
        if self.head_dim % 4:
            raise ValueError(
                f"2-D rotary needs a head width divisible by 4, got {embed_dim} / {num_heads}"
            )
        self.patch_nums = tuple(patch_nums)
        self.constants = Constants()
        self.context_token = context_token
        self.qkv_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.rotary_emb = LlamaRotaryEmbedding(
            self.head_dim, max_position_embeddings, base=rope_theta
        )
        self.context_rotary_emb = LlamaRotaryEmbedding1D(
            self.head_dim, max_position_embeddings, base=rope_theta
        )

    def forward(
        self,
        x: torch.Tensor,
        attn_bias: torch.Tensor | None,
        si: int = -1,
        context_position_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        m_maskgit: MaskIndex | None = None,
        *,
        kv_cache: LayerKVCache | None = None,
    ) -> torch.Tensor:
        """Map (rows, n, C) to (rows, n, C).

        Args:
            attn_bias: additive mask broadcast to (rows, H, n, keys), None at inference.
            si: stage index, -1 for the whole teacher-forced sequence.
            context_position_ids: (rows, T) int64; the last column is the maps' offset.
            context_mask: accepted, without effect: padding is attended like text.
            m_maskgit: which positions of the map (``si > 0``) or of all maps (-1) are present.
            kv_cache: where keys (after rotary) and values are kept between stages.
        """
        q, k, v = self._project(x)
        cos, sin = self.rotary_tables(v, si, context_position_ids, m_maskgit)
        q, k = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1)
        return self._attend_and_project(q, k, v, attn_bias, kv_cache)

    @property
    def _qkv(self) -> nn.Linear:
        return self.qkv_proj

    def rotary_tables(
        self,
        v: torch.Tensor,
        si: int,
        context_position_ids: torch.Tensor | None,
        m_maskgit: MaskIndex | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (rows, n, d) for the rows, dtype and device of ``v``."""
        if self.context_token == 0:
            grid = self._grid(v, self.patch_nums, si, m_maskgit)
            return self.rotary_emb(v, grid)
        if context_position_ids is None:
            raise ValueError("context_position_ids is required when the model has text positions")
        if si == 0:
            return self.context_rotary_emb(v, context_position_ids)
        grid = self._grid(v, self.patch_nums[1:], si - 1 if si > 0 else -1, m_maskgit)
        offset = context_position_ids[:, -1].to(v.device, torch.float32)
        tables = self.rotary_emb(v, grid + offset[:, None, None])
        if si > 0:
            return tables
        text_tables = self.context_rotary_emb(v, context_position_ids)
        cos, sin = (torch.cat(pair, dim=1) for pair in zip(text_tables, tables, strict=True))
        return cos, sin

    def _grid(
        self,
        v: torch.Tensor,
        patch_nums: tuple[int, ...],
        si: int,
        m_maskgit: MaskIndex | None,
    ) -> torch.Tensor:
        """Coordinates (rows, n, 2) of the tokens of ``v``."""
        return get_position_ids(v.shape[0], patch_nums, v.device, si, m_maskgit, self.constants)
