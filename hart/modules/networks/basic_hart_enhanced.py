"""Transformer blocks with feature caching: drop-in for those of ``basic_hart``.

Parameter names, constructor arguments and, without the cache keywords, results are those of the
plain blocks. The block calls its attention and its MLP, whatever stands there, unless it reuses
their outputs; a reused attention adds no keys and values unless the configuration wants them.
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


class FFNEnhanced(FFN):
    """The gpt2 MLP of a block with feature caching."""


class LlamaMLPEnhanced(LlamaMLP):
    """The llama MLP of a block with feature caching."""


class SelfAttentionEnhanced(SelfAttention):
    """The gpt2 attention of a block with feature caching."""


class LlamaAttentionEnhanced(LlamaAttention):
    """The llama attention of a block with feature caching."""


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
                it is not given. The lists and tables that it holds come before the others.

        A site takes part only if there are both a list and a table. The remaining arguments
        are those of the plain block.
        """
        sites = {
            "attn": (cache_attn, cache_similarity_attn),
            "mlp": (cache_mlp, cache_similarity_mlp),
        }
        caches = self._site_caches(sites, cache_run, si, m_maskgit) if si >= 0 else {}
        return super().forward(
            x,
            cond_BD,
            attn_bias,
            si,
            context_position_ids,
            context_mask,
            m_maskgit,
            kv_cache=kv_cache,
            attn_options={"cache": caches.get("attn")},
            ffn_options={"cache": caches.get("mlp")},
        )

    @torch.compiler.disable
    def _site_caches(
        self, sites: dict[str, tuple], run: CacheRun | None, si: int, m_maskgit: MaskIndex | None
    ) -> dict[str, SiteCache]:
        """The caches of this call, from lists and tables by site, or those that ``run`` holds."""
        if run is not None and run.tables:
            sites = {site: (run.stored[site], run.tables[site]) for site in sites}
        sites = {site: pair for site, pair in sites.items() if None not in pair}
        if not sites:
            return {}
        run = run or self._own_run()
        return {
            site: SiteCache(run, site, self.block_idx, si, stored, table, m_maskgit)
            for site, (stored, table) in sites.items()
        }

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
        attend = super()._attend
        if cache is None:
            options = {}
        else:
            options = self._add_missing_keys(
                cache, x, scale, shift, si, context_position_ids, kv_cache
            )
            x, m_maskgit = cache.select(x)

        def compute() -> torch.Tensor:
            positions = (si, context_position_ids, context_mask, m_maskgit)
            return attend(x, scale, shift, attn_bias, *positions, kv_cache=kv_cache, **options)

        return compute() if cache is None else cache(compute)

    @torch.compiler.disable
    def _add_missing_keys(
        self, cache: SiteCache, x, scale, shift, si, context_position_ids, kv_cache
    ) -> dict:
        """Keys and values of tokens whose attention is not computed; options of the others'."""
        missing = cache.missing_keys(
            x, lambda t: self.attn.project_keys_values(self.norm_and_modulate(t, scale, shift))
        )
        if missing is not None:
            self.attn.add_keys_values(
                missing.keys_values, si, context_position_ids, missing.positions, kv_cache=kv_cache
            )
        return {"keep_keys": cache.keep_keys} if cache.action.store_keys else {}

    def _feed_forward(self, x, scale, shift, *, cache: SiteCache | None = None) -> torch.Tensor:
        """MLP of the tokens that the cache does not leave out; the cache fills in the rest."""
        feed_forward = super()._feed_forward
        if cache is None:
            return feed_forward(x, scale, shift)
        x, _ = cache.select(x)
        return cache(lambda: feed_forward(x, scale, shift))

    def _own_run(self) -> CacheRun:
        if self.schedule is None:
            raise ValueError("patch_nums is required to cache; pass it to the block's constructor")
        return CacheRun(self.cache_config, self.schedule)
