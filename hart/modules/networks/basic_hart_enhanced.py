"""Transformer blocks with feature caching: drop-in for those of ``basic_hart``.

Parameter names, constructor arguments and, without the cache keywords, results are those of the
plain blocks. The block calls its attention and its MLP, whatever stands there, unless it reuses
their outputs; a reused attention adds no keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from hart.modules.networks.attention import LlamaAttention, SelfAttention
from hart.modules.networks.basic_hart import FFN, AdaLNSelfAttn, Compute, LlamaMLP
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.interpolate import interpolate_features, select_positions
from hart.modules.networks.caching.plan import Action, decide_module
from hart.modules.networks.caching.similarity import SimilarityRecorder, cosine_similarity
from hart.modules.networks.caching.stages import (
    StageSchedule,
    length2iteration,
    next_patch_size,
)
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
Table = Sequence[Sequence[float]]
Lists = dict[str, tuple[StoredOutputs | None, Table | None]]
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
        *args: Any,
        cache_mlp: StoredOutputs | None = None,
        cache_attn: StoredOutputs | None = None,
        cache_similarity_mlp: Table | None = None,
        cache_similarity_attn: Table | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map (rows, n, C) to (rows, n, C), reusing stored module outputs where that is allowed.

        Args:
            cache_mlp, cache_attn: one entry per block, the output stored at the previous stage or
                None; this block reads and replaces its own entry. It computes all tokens.
            cache_similarity_mlp, cache_similarity_attn: similarity tables, one row per block. A
                ``SimilarityRecorder`` in their place calibrates.

        A site takes part only if there are both a list and a table. Before these come the arguments
        of the plain block.
        """
        lists = {
            "attn": (cache_attn, cache_similarity_attn),
            "mlp": (cache_mlp, cache_similarity_mlp),
        }
        kwargs.setdefault("output", partial(self._output, lists))
        return super().forward(*args, **kwargs)

    def _output(
        self,
        lists: Lists,
        site: str,
        si: int,
        compute: Compute,
        x: torch.Tensor,
        m_maskgit: MaskIndex | None,
    ) -> torch.Tensor:
        """A site's output: reused, or computed, recorded and stored."""
        outputs, table = lists[site]
        if si < 0 or outputs is None or table is None:
            return compute(x, m_maskgit)
        action, before = self._decide(site, outputs, table, si, m_maskgit)
        out = before if action.reuse and before is not None else compute(x, m_maskgit)
        self._keep(outputs, table, si, action, before, out)
        return out

    @property
    def _stages(self) -> StageSchedule:
        if self.schedule is None:
            raise ValueError("patch_nums is required to cache; pass it to the block's constructor")
        return self.schedule

    @torch.compiler.disable
    def _decide(
        self, site: str, outputs: StoredOutputs, table: Table, si: int, m_maskgit: MaskIndex | None
    ) -> tuple[Action, torch.Tensor | None]:
        """What the site does, and what stands in for its output, if anything does."""
        config, schedule, layer = self.cache_config, self._stages, self.block_idx
        stored = outputs[layer] if si else None
        if isinstance(table, SimilarityRecorder):
            action = Action(store=True)
        else:
            has_stored = stored is not None
            action = decide_module(
                config, schedule, site, si, table[layer], has_stored, layer=layer
            )
        if stored is None:
            return action, None
        sides = schedule.patch_nums
        before = interpolate_features(stored, sides[si - 1], sides[si], config.interpolation_mode)
        return action, before if m_maskgit is None else select_positions(before, m_maskgit)

    @torch.compiler.disable
    def _keep(
        self,
        outputs: StoredOutputs,
        table: Table,
        si: int,
        action: Action,
        before: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        """Record how similar an output is, and keep it; the last stage may come in chunks."""
        schedule, layer = self._stages, self.block_idx
        # The first stage may be the text, whose last position is the 1x1 map.
        as_map = out[:, -schedule.lengths[0] :].clone() if si == 0 else out
        if isinstance(table, SimilarityRecorder) and before is not None:
            similarity = cosine_similarity(before, as_map)
            table.record(layer, schedule.column(si), similarity, weight=as_map.shape[1])
        if si < schedule.last:
            outputs[layer] = as_map if action.store else None
