"""All blocks of one generation that leaves out tokens (FastVAR's cached token pruning).

Which modules prune and how many tokens stay is known beforehand; which tokens, only at the module.
Those are run like a stage of their own, and their outputs put in between the resized ones of the
source stage. Reuse of whole modules beside it is merged as elsewhere.
"""

from __future__ import annotations

import torch

from hart.engine.block_runner import BlockRunner, Stream, of_this_call
from hart.engine.merged_runs import Run, StageProgram
from hart.engine.token_wise import TokenWise
from hart.modules.models.transformer.feature_caching import FeatureCachingMixin
from hart.modules.models.transformer.generation_state import Generation
from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.decisions import Action, DecisionPlan
from hart.modules.networks.caching.interpolate import select_positions
from hart.modules.networks.caching.prune_plan import kept_tokens, prune_plan
from hart.modules.networks.caching.pruning import resize_area, restore_tokens, split_tokens


class PruningRunner(BlockRunner):
    """:class:`BlockRunner` for a model that leaves out tokens; see :meth:`serves`.

    Args:
        model: whose blocks are run; it caches features.
        run: the generation.
        programs: what every stage does.
        plan: the decisions behind them.
        token_wise: what the blocks do token by token.
    """

    def __init__(
        self,
        model: FeatureCachingMixin,
        run: Generation,
        programs: tuple[StageProgram, ...],
        plan: DecisionPlan,
        token_wise: TokenWise,
    ) -> None:
        self.plan = plan
        self.source = prune_plan(plan.config, plan.schedule).source
        self._sources: dict[int, torch.Tensor] = {}
        super().__init__(model, run, programs, plan.config.interpolation_mode, token_wise)

    @staticmethod
    def serves(model: FeatureCachingMixin) -> bool:
        """Whether the decisions are known, and the source stage computes and is not a text."""
        config, schedule = model.cache_config, model.schedule
        source = prune_plan(config, schedule).source
        if source is None or config.adaptive_threshold:
            return False
        is_text = source == 0 and model.context_token > 0
        return not is_text and schedule.lengths[source] not in config.skip_stages

    def _keys(self, tokens: list[int]) -> list[list[int]]:
        keys = super()._keys(tokens)
        known = self.last if self.run.options.num_maskgit_iters > 1 else self.last + 1
        for si, of_stage in enumerate(keys[:known]):  # chunks of the last stage prune by themselves
            for layer, n in enumerate(of_stage):
                of_stage[layer] = n and kept_tokens(n, self._action(si, 2 * layer).ratio)
        return keys

    @property
    def kept_bytes(self) -> int:
        """Memory of what is kept for later stages."""
        return super().kept_bytes + sum(t.nbytes for t in self._sources.values())

    def _keep_rows(self, rows: int) -> None:
        super()._keep_rows(rows)
        self._sources = {module: kept[:rows].clone() for module, kept in self._sources.items()}

    def _action(self, si: int, module: int) -> Action:
        return self.plan.action(si, module // 2, SITES[module % 2])

    def _compute(self, stream: Stream, si: int, module: int, m_maskgit, kept_run, kept) -> None:
        keep = kept_tokens(stream.x.shape[1], self._action(si, module).ratio)
        alone, change = Run(module, module + 1), {}
        if keep < stream.x.shape[1] and module in self._sources:
            index, _ = split_tokens(stream.x, keep)
            super()._compute(_part(stream, index), si, module, m_maskgit, alone, change)
            source = self._source(stream, si, module, m_maskgit)
            change[alone] = restore_tokens(change[alone], index, source)
            stream.x += change[alone]
        elif si == self.source:
            super()._compute(stream, si, module, m_maskgit, alone, change)
            if self._action(si, module).store_source:
                self._sources[module] = change[alone]
        else:
            super()._compute(stream, si, module, m_maskgit, kept_run, kept)
            return
        if kept_run is not None:
            kept[kept_run] = kept.get(kept_run, 0) + change[alone]

    def _source(self, stream: Stream, si: int, module: int, m_maskgit) -> torch.Tensor:
        """What the module added at the source stage, resized to the positions of this call."""
        sides = self.model.patch_nums
        full = resize_area(self._sources[module], sides[self.source], sides[si])
        return of_this_call(full, stream, m_maskgit)


def _part(stream: Stream, index: torch.Tensor) -> Stream:
    """Some tokens of every row, ``index`` (r, n), as a stage of their own."""
    tables = stream.tables
    if tables is not None:
        rows = len(index)
        tables = tuple(select_positions(t.expand(rows, -1, -1), index) for t in tables)
    x = select_positions(stream.x, index)
    return Stream(x, stream.rows, stream.modulation, tables, x.shape[1])
