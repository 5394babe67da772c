"""One module's turn at one stage: reuse, compute, compare, keep; the plain way.

:class:`SiteCache` is handed to one attention or MLP for one call and calls it back when it has to
compute. The engine does the same with less work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .generation_cache import GenerationCache
from .interpolate import select_positions
from .plan import Action, kept_tokens
from .pruning import restore_tokens
from .store import Positions


@dataclass
class SiteCache:
    """The cache as one module sees it during one call.

    Called with a module's computation it says what the module puts out. Before that, a block asks
    it which tokens are to be computed (:meth:`select`).

    Attributes:
        cache: of the generation.
        module, si: number of the module, see :mod:`.plan`, and stage index.
        positions: which positions of the map the call covers, None for all of them.
    """

    cache: GenerationCache
    module: int
    si: int
    positions: Positions | None = None
    _kept: Tensor | None = field(default=None, init=False)

    @property
    def action(self) -> Action:
        """What the module does."""
        return self.cache.plan[self.si][self.module]

    @torch.compiler.disable
    def select(self, x: Tensor) -> tuple[Tensor, Positions | None]:
        """The tokens to compute and which positions of the map they are.

        A stage that comes in chunks is pruned chunk by chunk: each keeps the same share.

        Args:
            x: the residual stream before the norm, (rows, n, C).
        """
        keep = kept_tokens(x.shape[1], self.action.ratio)
        if self.action.reuse or keep == x.shape[1]:
            return x, self.positions
        self._kept = index = self.cache.choose(x, keep, self.positions)
        chosen = select_positions(x, index)
        if self.positions is not None:
            index = self.positions[1].view(len(index), -1).gather(1, index)
        rows = torch.arange(len(index), device=index.device)
        return chosen, (rows.repeat_interleave(keep), index.flatten())

    def __call__(self, compute: Callable[[], Tensor]) -> Tensor:
        """The module's output (rows, n, C): reused, or computed by ``compute``.

        ``compute`` handles the tokens that :meth:`select` chose, in their order. It is all that a
        compiler sees: what surrounds it is bookkeeping.
        """
        out = self._reused()
        self.cache.note(self.module, self.action)
        return self._finished(compute()) if out is None else out

    @torch.compiler.disable
    def _reused(self) -> Tensor | None:
        """The output without computing; None if it must be computed."""
        store = self.cache.store
        if not self.action.reuse:
            return None
        store.defer(self.module)
        out = store.flush(self.si, self.positions)
        if out is not None and self.action.store_source:
            store.keep_source(self.module, self.si, out)
        return out

    @torch.compiler.disable
    def _finished(self, out: Tensor) -> Tensor:
        """The output from what was computed: made complete, compared and kept."""
        store, module, si = self.cache.store, self.module, self.si
        if self._kept is not None:
            out = restore_tokens(out, self._kept, store.source(module, si, self.positions))
        # The first stage may be the text, whose last position is the 1x1 map.
        as_map = out[:, -store.schedule.lengths[0] :] if si == 0 else out
        if self.cache.observes(module, si):
            self.cache.observe(module, si, as_map, self.positions)
        if self.action.store_source:
            store.keep_source(module, si, as_map)
        if self.action.store:
            store.keep(module, si, as_map)
        return out
