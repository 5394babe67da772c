"""All blocks of one generation whose reuse is decided while it runs, by an adaptive threshold.

The first block is what the threshold is measured with, so it has the model's own cache. Of the
others, reused modules in a row are one addition to the residual stream. What the next stage reuses
is not always known yet, so outputs are kept one by one, each as it was computed: a module that is
reused several times in a row keeps its small map, and it is resized once for all modules that are
reused together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from hart.engine.block_runner import BlockRunner, Stream, of_this_call
from hart.engine.merged_runs import Run, compute_everything
from hart.engine.token_wise import TokenWise
from hart.modules.models.transformer.feature_caching import FeatureCachingMixin
from hart.modules.models.transformer.generation_state import Generation
from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.decisions import PROBE, Action, decide_module, is_eligible
from hart.modules.networks.caching.interpolate import interpolate_features

FIRST_REUSED_STAGE = 2
"""Before it something would be kept of the text, which is run in two parts."""


class KeptOutput(NamedTuple):
    """What a module added to the residual stream at stage ``si``: (rows, tokens, C)."""

    si: int
    change: torch.Tensor


class AdaptiveRunner(BlockRunner):
    """:class:`BlockRunner` for a model with an adaptive threshold; see :meth:`serves`.

    Args:
        model: whose blocks are run; it caches features.
        run: the generation.
        token_wise: what the blocks do token by token.
    """

    def __init__(self, model: FeatureCachingMixin, run: Generation, token_wise: TokenWise) -> None:
        programs = compute_everything(model.depth, len(model.patch_nums))
        mode = model.cache_config.interpolation_mode
        super().__init__(model, run, programs, mode, token_wise, model.site_cache)
        self._kept: dict[int, KeptOutput] = {}

    @staticmethod
    def serves(model: FeatureCachingMixin) -> bool:
        """Whether the model decides about whole modules only, and keeps nothing of a text."""
        config, first = model.cache_config, model.schedule.lengths[:FIRST_REUSED_STAGE]
        keeps_text = model.context_token > 0 and set(first) & set(config.skip_stages)
        return config.decides_whole_modules and not keeps_text

    def _keep_rows(self, rows: int) -> None:
        super()._keep_rows(rows)
        narrow = {m: KeptOutput(o.si, o.change[:rows].clone()) for m, o in self._kept.items()}
        self._replace(narrow)

    def _observes(self, layer: int) -> bool:
        return layer == PROBE

    def _run(self, stream: Stream, si: int, m_maskgit) -> dict:
        computed: dict[Run, torch.Tensor] = {}
        kept: dict[int, KeptOutput] = {}
        pending: list[KeptOutput] = []
        for module in range(2 * self.model.depth):
            layer, is_mlp = divmod(module, 2)
            if self._observes(layer):
                self._run_probe(stream, si, module, m_maskgit)
            elif (action := self._decide(module, si)).reuse:
                pending.append(self._kept[module])
                if action.store:
                    kept[module] = self._kept[module]
                self._count(module, si, action, stream)
            else:
                self._add(stream, si, pending, m_maskgit)
                store = Run(module, module + 1) if action.store else None
                self._compute(stream, si, module, m_maskgit, store, computed)
                if store is not None:
                    kept[module] = KeptOutput(si, computed.pop(store))
                self._count(module, si, action, stream)
            stream.halves_equal = False
            if not is_mlp and self.model.config.use_cross_attn:
                self._add(stream, si, pending, m_maskgit)
                self._cross_attend(stream, layer, si)
        self._add(stream, si, pending, m_maskgit)
        if si != self.last:  # the last stage's chunks share what is kept
            self._replace(kept)
        return {}

    def _run_probe(self, stream: Stream, si: int, module: int, m_maskgit) -> None:
        """Reuse or compute a module of the probe, which keeps and counts its output itself."""
        layer, is_mlp = divmod(module, 2)
        cache = self.model.site_cache(SITES[is_mlp], layer, si, m_maskgit)
        if not cache.action.reuse:
            self._compute(stream, si, module, m_maskgit, None, {})
            return
        gamma = stream.modulation[layer][is_mlp]
        out = cache(_compute_nothing)
        stream.x += out if gamma is None else out * gamma

    def _decide(self, module: int, si: int) -> Action:
        model, layer, site = self.model, module // 2, SITES[module % 2]
        return decide_module(
            model.cache_config,
            model.schedule,
            site,
            si,
            model.similarity_in_use.site(site)[layer],
            module in self._kept,
            model.running_threshold(si),
            layer=layer,
        )

    def _add(self, stream: Stream, si: int, pending: list[KeptOutput], m_maskgit) -> None:
        """Add kept outputs to the residual stream and empty their list.

        Maps are resized from stage to stage, as reusing them at each has done; those of a later
        stage join on the way.
        """
        if not pending:
            return
        sides, total = self.model.patch_nums, None
        for since in range(min(kept.si for kept in pending), si):
            for kept in pending:
                if kept.si == since:
                    total = kept.change.clone() if total is None else total.add_(kept.change)
            total = interpolate_features(total, sides[since], sides[since + 1], self.mode)
        stream.x += of_this_call(total, stream, m_maskgit)
        pending.clear()

    def _replace(self, kept: dict[int, KeptOutput]) -> None:
        counts = self.model.generation_counts
        if counts is not None:
            counts.hold(_size_bytes(kept) - _size_bytes(self._kept))
        self._kept = kept

    def _count(self, module: int, si: int, action: Action, stream: Stream) -> None:
        """Count a module's call; both parts of the text are counted with the first."""
        counts, layer = self.model.generation_counts, module // 2
        if counts is None or stream.rows.start:
            return
        config, schedule = self.model.cache_config, self.model.schedule
        site = SITES[module % 2]
        eligible = is_eligible(config, schedule, site, si, layer)
        counts.count(layer, si, site, action, eligible, len(self.run.cond), stream.tokens)


def _compute_nothing() -> torch.Tensor:
    raise AssertionError("a reused module computes nothing")


def _size_bytes(kept: dict[int, KeptOutput]) -> int:
    return sum(output.change.nbytes for output in kept.values())
