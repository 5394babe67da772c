"""Transformer blocks with feature caching: drop-in for those of ``basic_hart``.

Parameter names, constructor arguments and, without the cache keywords, results are those of the
plain blocks. The block calls its attention and its MLP, whatever stands there, unless it reuses
their outputs; a reused attention adds no keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from hart.modules.networks.attention import LlamaAttention, SelfAttention
from hart.modules.networks.basic_hart import FFN, AdaLNSelfAttn, Compute, LlamaMLP
from hart.modules.networks.caching.config import CacheConfig
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
Lists = dict[str, tuple[StoredOutputs, Sequence[Sequence[float]]]]
"""By site the stored outputs and the similarity table."""


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
        given = {
            "attn": (cache_attn, cache_similarity_attn),
            "mlp": (cache_mlp, cache_similarity_mlp),
        }
        lists = {
            site: (outputs, table)
            for site, (outputs, table) in given.items()
            if cache is None and si >= 0 and outputs is not None and table is not None
        }
        own = self._own_cache(len(x), si, lists) if lists else None
        out = self._forward(
            x,
            cond_BD,
            attn_bias,
            si,
            context_position_ids,
            context_mask,
            m_maskgit,
            kv_cache,
            partial(self._output, cache or own, si),
        )
        if own is not None:
            self._hand_back(own, lists, si)
        return out

    def _output(
        self,
        cache: GenerationCache | None,
        si: int,
        site: str,
        compute: Compute,
        x: torch.Tensor,
        m_maskgit: MaskIndex | None,
    ) -> torch.Tensor:
        """A site's output: of the tokens that the cache wants; the cache fills in the rest."""
        if cache is None:
            return compute(x, m_maskgit)
        turn = SiteCache(cache, module_of(self.block_idx, site), si, m_maskgit)
        x, m_maskgit = turn.select(x)
        return turn(lambda: compute(x, m_maskgit))

    @torch.compiler.disable
    def _own_cache(self, rows: int, si: int, lists: Lists) -> GenerationCache:
        """The cache of this call alone."""
        if self.schedule is None:
            raise ValueError("patch_nums is required to cache; pass it to the block's constructor")
        config, schedule, layer = self.cache_config, self.schedule, self.block_idx
        recorders = {s: t for s, (_, t) in lists.items() if isinstance(t, SimilarityRecorder)}
        actions = [COMPUTE] * (2 * layer + 2)
        for site in lists.keys() - recorders.keys():
            outputs, table = lists[site]
            has_stored, row = outputs[layer] is not None, table[layer]
            action = decide_module(config, schedule, site, si, row, has_stored, layer=layer)
            actions[module_of(layer, site)] = replace(action, ratio=0.0, store_source=False)
        plan = Plan(config, schedule, (tuple(actions),) * schedule.num_stages)
        cache = GenerationCache(plan, recorders=recorders)
        cache.begin_stage(si, rows)
        for site, (outputs, _) in lists.items():
            module, stored = module_of(layer, site), outputs[layer]
            if stored is not None:
                cache.store.slots[single(module)] = {si - 1: stored}
                cache.store.compared[module] = stored
        return cache

    @torch.compiler.disable
    def _hand_back(self, cache: GenerationCache, lists: Lists, si: int) -> None:
        """Put what is kept for the next stage into the lists; the last stage may come in chunks."""
        store = cache.store
        if si < store.schedule.num_stages - 1:
            for site, (outputs, _) in lists.items():
                module = module_of(self.block_idx, site)
                recorded = store.compared.get(module) if site in cache.recorders else None
                outputs[self.block_idx] = store.kept(module, si) if recorded is None else recorded
