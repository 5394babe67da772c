"""Transformer blocks with feature caching: drop-in for those of ``basic_hart``.

Parameter names, constructor arguments and, without the cache keywords, results are those of the
plain blocks: each enhanced module is the plain one with reuse wrapped around its ``forward``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from hart.modules.networks.attention import LlamaAttention, SelfAttention
from hart.modules.networks.basic_hart import FFN, AdaLNSelfAttn, LlamaMLP
from hart.modules.networks.caching.cache_run import CacheRun
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.site_cache import SiteCache
from hart.modules.networks.caching.stages import (
    StageSchedule,
    length2iteration,
    next_patch_size,
)
from hart.modules.networks.kv_cache import LayerKVCache
from hart.modules.networks.rope import MaskIndex

__all__ = [
    "AdaLNSelfAttnEnhanced",
    "CacheConfig",
    "FFNEnhanced",
    "LlamaAttentionEnhanced",
    "LlamaMLPEnhanced",
    "SelfAttentionEnhanced",
    "length2iteration",
    "next_patch_size",
]


class FeatureCached:
    """Mixin in front of a plain module: ``forward`` takes one more keyword, ``cache``.

    With it the cache decides whether the module computes; without it the module is the plain one.
    """

    def forward(
        self, x: torch.Tensor, *args, cache: SiteCache | None = None, **kwargs
    ) -> torch.Tensor:
        if cache is None:
            return super().forward(x, *args, **kwargs)
        return cache(lambda: super(FeatureCached, self).forward(x, *args, **kwargs))


class AttentionCached(FeatureCached):
    """:class:`FeatureCached` for attention: the cache may want the keys and values, too."""

    def forward(
        self, x: torch.Tensor, *args, cache: SiteCache | None = None, **kwargs
    ) -> torch.Tensor:
        if cache is not None and cache.action.store_keys:
            kwargs["keep_keys"] = cache.keep_keys
        return super().forward(x, *args, cache=cache, **kwargs)


class FFNEnhanced(FeatureCached, FFN):
    """The gpt2 MLP with feature caching."""


class LlamaMLPEnhanced(FeatureCached, LlamaMLP):
    """The llama MLP with feature caching."""


class SelfAttentionEnhanced(AttentionCached, SelfAttention):
    """The gpt2 attention with feature caching; a reused call adds no keys and values."""


class LlamaAttentionEnhanced(AttentionCached, LlamaAttention):
    """The llama attention with feature caching; a reused call adds no keys and values."""


class AdaLNSelfAttnEnhanced(AdaLNSelfAttn):
    """The transformer block with feature caching in its attention and MLP.

    Arguments are those of :class:`AdaLNSelfAttn`, and:

    Args:
        cache_config: what may be cached; the default caches nothing. It can be replaced through
            the attribute of that name.
    """

    attention_classes: ClassVar[dict[str, type[nn.Module]]] = {
        "gpt2": SelfAttentionEnhanced,
        "llama": LlamaAttentionEnhanced,
    }
    mlp_classes: ClassVar[dict[str, type[nn.Module]]] = {
        "gpt2": FFNEnhanced,
        "llama": LlamaMLPEnhanced,
    }

    def __init__(self, *args, cache_config: CacheConfig | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.cache_config = cache_config or CacheConfig()
        patch_nums = kwargs.get("patch_nums")
        self.schedule = StageSchedule(patch_nums) if patch_nums else None

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
        cache_mlp: list[torch.Tensor | None] | None = None,
        cache_attn: list[torch.Tensor | None] | None = None,
        cache_similarity_mlp: Sequence[Sequence[float]] | None = None,
        cache_similarity_attn: Sequence[Sequence[float]] | None = None,
        cache_run: CacheRun | None = None,
    ) -> torch.Tensor:
        """Map (rows, n, C) to (rows, n, C), reusing stored module outputs where that is allowed.

        Args:
            cache_mlp, cache_attn: one entry per block, the output stored at the previous stage or
                None; this block reads and replaces its own entry.
            cache_similarity_mlp, cache_similarity_attn: similarity tables, one row per block. A
                ``SimilarityRecorder`` in their place calibrates.
            cache_run: state shared by the blocks of a generation; made from ``cache_config`` when
                it is not given.

        A site takes part only if both its list and its table are given. The remaining arguments
        are those of the plain block.
        """
        sites = {
            "attn": (cache_attn, cache_similarity_attn),
            "mlp": (cache_mlp, cache_similarity_mlp),
        }
        options = {}
        for site, (stored, table) in sites.items():
            if stored is not None and table is not None and si >= 0:
                cache_run = cache_run or self._own_run()
                cache = SiteCache(cache_run, site, self.block_idx, si, stored, table, m_maskgit)
                options[site] = {"cache": cache}
        return super().forward(
            x,
            cond_BD,
            attn_bias,
            si,
            context_position_ids,
            context_mask,
            m_maskgit,
            kv_cache=kv_cache,
            attn_options=options.get("attn"),
            ffn_options=options.get("mlp"),
        )

    def _attend(
        self,
        x,
        scale,
        shift,
        attn_bias,
        si,
        context_position_ids,
        context_mask,
        m_maskgit,
        *,
        kv_cache=None,
        cache: SiteCache | None = None,
    ) -> torch.Tensor:
        """Attention of the tokens that the cache does not leave out; the cache fills in the rest.

        Keys and values of left-out tokens are added first, so that the others attend to them.
        """
        options = {"kv_cache": kv_cache}
        if cache is not None:
            options["cache"] = cache
            missing = cache.missing_keys(
                x, lambda t: self.attn.project_keys_values(self.norm_and_modulate(t, scale, shift))
            )
            if missing is not None:
                self.attn.add_keys_values(
                    missing.keys_values,
                    si,
                    context_position_ids,
                    missing.positions,
                    kv_cache=kv_cache,
                )
            x, m_maskgit = cache.select(x)
        return super()._attend(
            x,
            scale,
            shift,
            attn_bias,
            si,
            context_position_ids,
            context_mask,
            m_maskgit,
            **options,
        )

    def _feed_forward(self, x, scale, shift, *, cache: SiteCache | None = None) -> torch.Tensor:
        """MLP of the tokens that the cache does not leave out; the cache fills in the rest."""
        if cache is None:
            return super()._feed_forward(x, scale, shift)
        return super()._feed_forward(cache.select(x)[0], scale, shift, cache=cache)

    def _own_run(self) -> CacheRun:
        if self.schedule is None:
            raise ValueError("patch_nums is required to cache; pass it to the block's constructor")
        return CacheRun(self.cache_config, self.schedule)
