"""Transformer blocks with feature caching: drop-in for those of ``basic_hart``.

Parameter names, constructor arguments and, without the cache keywords, results are those of the
plain blocks. The block calls its attention and its MLP, whatever stands there, unless it reuses
their outputs; a reused attention adds no keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from hart.modules.networks.attention import LlamaAttention, SelfAttention
from hart.modules.networks.basic_hart import FFN, AdaLNSelfAttn, LlamaMLP
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.generation_cache import GenerationCache
from hart.modules.networks.caching.plan import COMPUTE, Plan, decide_module, module_of
from hart.modules.networks.caching.similarity import SimilarityRecorder
from hart.modules.networks.caching.site_cache import SiteCache
from hart.modules.networks.caching.stages import (
    StageSchedule,
    length2iteration,
    next_patch_size,
)
from hart.modules.networks.caching.store import single
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

StoredOutputs = list[torch.Tensor | None]


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
        cache_mlp: StoredOutputs | None = None,
        cache_attn: StoredOutputs | None = None,
        cache_similarity_mlp: Sequence[Sequence[float]] | None = None,
        cache_similarity_attn: Sequence[Sequence[float]] | None = None,
        cache: GenerationCache | None = None,
    ) -> torch.Tensor:
        """Map (rows, n, C) to (rows, n, C), reusing stored module outputs where that is allowed.

        Args:
            cache_mlp, cache_attn: one entry per block, the output stored at the previous stage or
                None; this block reads and replaces its own entry. It computes all tokens.
            cache_similarity_mlp, cache_similarity_attn: similarity tables, one row per block. A
                ``SimilarityRecorder`` in their place calibrates.
            cache: of the generation, which has begun the stage; it comes before the lists.

        A site takes part only if there are both a list and a table. The remaining arguments
        are those of the plain block.
        """
        sites, stored = SITES if cache is not None else (), {}
        if cache is None and si >= 0:
            given = {
                "attn": (cache_attn, cache_similarity_attn),
                "mlp": (cache_mlp, cache_similarity_mlp),
            }
            stored = {
                site: lists for site, (lists, table) in given.items() if None not in (lists, table)
            }
            tables = {site: given[site][1] for site in stored}
            sites, cache = tuple(stored), self._own_cache(len(x), si, stored, tables)
        turns = {
            site: SiteCache(cache, module_of(self.block_idx, site), si, m_maskgit)
            for site in sites
            if cache is not None
        }
        out = super().forward(
            x,
            cond_BD,
            attn_bias,
            si,
            context_position_ids,
            context_mask,
            m_maskgit,
            kv_cache=kv_cache,
            attn_options={"cache": turns.get("attn")},
            ffn_options={"cache": turns.get("mlp")},
        )
        self._hand_back(cache, stored, si)
        return out

    @torch.compiler.disable
    def _own_cache(self, rows: int, si: int, stored, tables) -> GenerationCache | None:
        """The cache of this call alone, from lists and tables by site; None without any."""
        if not stored:
            return None
        if self.schedule is None:
            raise ValueError("patch_nums is required to cache; pass it to the block's constructor")
        config, schedule, layer = self.cache_config, self.schedule, self.block_idx
        recorders = {s: t for s, t in tables.items() if isinstance(t, SimilarityRecorder)}
        actions = [COMPUTE] * (2 * layer + 2)
        for site in stored.keys() - recorders.keys():
            has_stored, row = stored[site][layer] is not None, tables[site][layer]
            action = decide_module(config, schedule, site, si, row, has_stored, layer=layer)
            actions[module_of(layer, site)] = replace(action, ratio=0.0, store_source=False)
        cache = GenerationCache(
            Plan(config, schedule, (tuple(actions),) * schedule.num_stages), recorders=recorders
        )
        cache.begin_stage(si, rows)
        for site, outputs in stored.items():
            if outputs[layer] is not None:
                module = module_of(layer, site)
                cache.store.slots[single(module)] = {si - 1: outputs[layer]}
                cache.store.compared[module] = outputs[layer]
        return cache

    @torch.compiler.disable
    def _hand_back(self, cache: GenerationCache | None, stored, si: int) -> None:
        """Put what is kept for the next stage into the lists; the last stage may come in chunks."""
        for site, outputs in stored.items():
            if si < self.schedule.num_stages - 1:
                module = module_of(self.block_idx, site)
                kept = cache.store.kept(module, si)
                recorded = cache.store.compared.get(module) if site in cache.recorders else None
                outputs[self.block_idx] = kept if recorded is None else recorded

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
        """Attention of the tokens that the cache wants; the cache fills in the rest."""
        attend = super()._attend
        if cache is not None:
            x, m_maskgit = cache.select(x)

        def compute() -> torch.Tensor:
            positions = (si, context_position_ids, context_mask, m_maskgit)
            return attend(x, scale, shift, attn_bias, *positions, kv_cache=kv_cache)

        return compute() if cache is None else cache(compute)

    def _feed_forward(self, x, scale, shift, *, cache: SiteCache | None = None) -> torch.Tensor:
        """MLP of the tokens that the cache wants; the cache fills in the rest."""
        feed_forward = super()._feed_forward
        if cache is None:
            return feed_forward(x, scale, shift)
        x, _ = cache.select(x)
        return cache(lambda: feed_forward(x, scale, shift))
