"""One module's turn at one stage: reuse, compute, measure, keep.

:class:`SiteCache` is handed to one attention or MLP for one call and calls it back when it has to
compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .cache_run import CacheRun
from .decisions import COMPUTE, Action, decide_module, is_eligible, is_probed
from .interpolate import interpolate_features, select_positions
from .prune_plan import kept_tokens, prune_plan
from .pruning import resize_area, restore_tokens, split_tokens
from .similarity import SimilarityRecorder, cosine_similarity


class MissingKeys(NamedTuple):
    """Keys and values of tokens whose attention is not computed.

    Attributes:
        keys_values: (rows, n, 2 C) as projected.
        positions: which positions of the map they are, None for all of them in order.
    """

    keys_values: Tensor
    positions: tuple[Tensor, Tensor] | None


@dataclass
class SiteCache:
    """The cache as one module sees it during one call.

    Called with a module's computation it says what the module puts out. Before that, a block asks
    it which tokens are to be computed (:meth:`select`) and, for attention, which keys and values
    it would then lack (:meth:`missing_keys`); without these two all tokens are.

    Attributes:
        run: state shared by the generation's blocks.
        site: ``"attn"`` or ``"mlp"``.
        layer, si: block and stage index.
        stored: per layer the output kept at the previous stage, a map (rows, tokens, C), or None.
        table: the site's similarity table. A :class:`SimilarityRecorder` means calibration: the
            module always computes and every transition is measured.
        m_maskgit: which positions of the map the call covers, None for all of them.
    """

    run: CacheRun
    site: str
    layer: int
    si: int
    stored: list[Tensor | None]
    table: Sequence[Sequence[float]]
    m_maskgit: tuple[Tensor, Tensor] | None = None
    _split: tuple[Tensor, Tensor] | None = field(default=None, init=False)
    _added_keys: int = field(default=0, init=False)
    _projected_keys: int = field(default=0, init=False)

    def __call__(self, compute: Callable[[], Tensor]) -> Tensor:
        """The module's output (rows, n, C): reused, or computed by ``compute``.

        ``compute`` handles the tokens that :meth:`select` chose, in their order. It is all that a
        compiler sees: what surrounds it is bookkeeping.
        """
        out = self._reused()
        return self._finished(compute()) if out is None else out

    @torch.compiler.disable
    def _reused(self) -> Tensor | None:
        """The output without computing; None if it must be computed."""
        if not self.action.reuse:
            return None
        return self._noted(self._interpolated(), 0)

    @torch.compiler.disable
    def _finished(self, out: Tensor) -> Tensor:
        """The output from what was computed: measured, made complete, counted and kept."""
        if self._calibrates:
            return self._calibrated(out)
        computed = out.shape[1]
        if self._split is not None:
            out = restore_tokens(out, self._split[0], self._source())
        self._probe(out)
        return self._noted(out, computed)

    def _noted(self, out: Tensor, computed: int) -> Tensor:
        self._count(self.action, out, computed)
        self._keep(out if self.action.store else None)
        if self.action.store_source:
            self._keep_source(out)
        return out

    @cached_property
    def action(self) -> Action:
        """What the module does. An adaptive threshold must be known by now."""
        if self._calibrates:
            return COMPUTE
        return decide_module(
            self.run.config,
            self.run.schedule,
            self.site,
            self.si,
            self.table[self.layer],
            self.stored[self.layer] is not None,
            self.run.threshold(self.si),
            layer=self.layer,
        )

    @property
    def _calibrates(self) -> bool:
        return isinstance(self.table, SimilarityRecorder)

    # --- tokens that are left out -------------------------------------------------------------

    @torch.compiler.disable
    def select(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The tokens to compute and which positions of the map they are.

        A stage that comes in chunks is pruned chunk by chunk: each keeps the same share.

        Args:
            x: the residual stream before the norm, (rows, n, C).
        """
        kept = self._kept_and_left_out(x)
        if kept is None:
            return x, self.m_maskgit
        return select_positions(x, kept[0]), self._positions(kept[0])

    def _kept_and_left_out(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Indices (rows, kept) and (rows, left out) into the call's tokens; None to keep all."""
        keep = kept_tokens(x.shape[1], self.action.ratio)
        if keep == x.shape[1] or (self.site, self.layer) not in self.run.sources:
            return None
        if self._split is None:
            self._split = split_tokens(x, keep)
        return self._split

    def _positions(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in the map of some of the call's tokens, (rows, n), as ``m_maskgit`` pairs."""
        if self.m_maskgit is not None:
            index = self.m_maskgit[1].view(len(index), -1).gather(1, index)
        rows = torch.arange(len(index), device=index.device)
        return rows.repeat_interleave(index.shape[1]), index.flatten()

    def _source(self) -> Tensor:
        """The output at the source stage, resized to the positions of this call."""
        source = prune_plan(self.run.config, self.run.schedule).source
        sides = self.run.schedule.patch_nums
        stored = self.run.sources[self.site, self.layer]
        return self._of_this_call(resize_area(stored, sides[source], sides[self.si]))

    def _keep_source(self, out: Tensor) -> None:
        stored = self.stored[self.layer]
        kept = stored if stored is not None and self.action.store else self._as_map(out)
        if kept is not stored:
            self.run.hold(kept, None)
        self.run.sources[self.site, self.layer] = kept

    # --- keys and values of tokens whose attention is not computed -----------------------------

    def missing_keys(self, x: Tensor, project: Callable[[Tensor], Tensor]) -> MissingKeys | None:
        """Keys and values that the configuration wants to have although nothing computes them.

        Args:
            x: the residual stream before the norm, (rows, n, C).
            project: from some of its tokens to their keys and values, (rows, n', 2 C).
        """
        mode = "none"
        split = None if self.action.reuse else self._kept_and_left_out(x)
        if mode == "none" or not (self.action.reuse or split):
            return None
        if mode == "project":
            keys = project(select_positions(x, split[1]) if split else x)
            self._projected_keys = keys.shape[1]
        elif self.layer in self.run.keys:
            keys = self._interpolated_keys()
            keys = select_positions(keys, split[1]) if split else keys
        else:
            return None
        self._added_keys = keys.shape[1]
        return MissingKeys(keys, self._positions(split[1]) if split else self.m_maskgit)

    @torch.compiler.disable
    def keep_keys(self, keys_values: Tensor) -> None:
        """Keep the keys and values (rows, n, 2 C) of a computed attention."""
        kept = self._as_map(keys_values).contiguous()  # not a view that holds the queries too
        self.run.hold(kept, self.run.keys.get(self.layer, (0, None))[1])
        self.run.keys[self.layer] = (self.si, kept)

    def _interpolated_keys(self) -> Tensor:
        si, keys = self.run.keys[self.layer]
        return self._resized(keys, si)

    # --- outputs of the previous stage --------------------------------------------------------

    def _calibrated(self, out: Tensor) -> Tensor:
        if self.stored[self.layer] is not None:
            similarity = cosine_similarity(self._interpolated(), out)
            column = self.run.schedule.column(self.si)
            self.table.record(self.layer, column, similarity, weight=out.shape[1])
        self._count(COMPUTE, out, out.shape[1])
        self._keep(out)
        return out

    def _probe(self, out: Tensor) -> None:
        config, schedule, row = self.run.config, self.run.schedule, self.table[self.layer]
        measures = is_probed(config, schedule, self.site, self.si, self.layer, row)
        comparable = self.stored[self.layer] is not None and not self.run.table_is_assumed
        if measures and comparable:
            calibrated = row[schedule.column(self.si)]
            self.run.probe(calibrated, cosine_similarity(self._interpolated(), out))

    def _interpolated(self) -> Tensor:
        return self._resized(self.stored[self.layer], self.si - 1)

    def _resized(self, stored: Tensor, si: int) -> Tensor:
        """Stage ``si``'s map at the positions of this call."""
        sides, mode = self.run.schedule.patch_nums, self.run.config.interpolation_mode
        return self._of_this_call(interpolate_features(stored, sides[si], sides[self.si], mode))

    def _of_this_call(self, full: Tensor) -> Tensor:
        return full if self.m_maskgit is None else select_positions(full, self.m_maskgit)

    def _keep(self, out: Tensor | None) -> None:
        """Replace what the previous stage stored; the last stage may come in chunks that share it.

        The first stage may be the text, whose last position is the 1x1 map.
        """
        if self.si < 0 or self.si == self.run.schedule.num_stages - 1:
            return
        kept = None if out is None else self._as_map(out)
        before = self.stored[self.layer]
        still_a_source = before is self.run.sources.get((self.site, self.layer))
        self.run.hold(kept, None if still_a_source else before)
        self.stored[self.layer] = kept

    def _as_map(self, out: Tensor) -> Tensor:
        """A stage's tokens as a map: of stage 0, the text, the last positions only."""
        return out[:, -self.run.schedule.lengths[0] :].clone() if self.si == 0 else out

    def _count(self, action: Action, out: Tensor, computed: int) -> None:
        run = self.run
        if run.counts is None:
            return
        rows, tokens = out.shape[:2]
        run.counts.count(
            self.layer,
            self.si,
            self.site,
            action,
            is_eligible(run.config, run.schedule, self.site, self.si, self.layer),
            rows,
            tokens,
            computed_tokens=computed,
            added_keys=self._added_keys,
            projected_keys=self._projected_keys,
        )
