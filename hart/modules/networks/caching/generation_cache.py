"""What caching does in one generation: its plan, what it keeps, measures and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from .config import SITES
from .generation_counts import AdaptedThreshold, GenerationCounts
from .interpolate import select_positions
from .plan import (
    COMPUTE,
    PROBE,
    Action,
    Plan,
    adapted_threshold,
    decide_all,
    is_eligible,
    kept_tokens,
    measured_stages,
    module_of,
    place_of,
    probed_stages,
    pruning_source,
)
from .pruning import map_changes, restore_tokens, split_by, split_tokens
from .similarity import SimilarityRecorder, SimilarityTables
from .store import FeatureStore, Positions, slots_of


class GenerationCache:
    """The cache of one generation, owned by the call that generates.

    Whoever runs the blocks asks it at every stage: :meth:`begin_stage`, then what the modules do,
    :meth:`end_stage`.

    Args:
        plan: what every module does.
        tables: what an adaptive threshold is adapted with; None for none.
        recorders: by site; with them every module's output is compared with that of the stage
            before.
        counts: where module calls, thresholds and bytes are counted, None to count nothing.

    Attributes:
        store: what is kept for later stages.
        acts: whether it does more than counting, and ending guidance.
    """

    def __init__(
        self,
        plan: Plan,
        tables: SimilarityTables | None = None,
        recorders: Mapping[str, SimilarityRecorder] | None = None,
        counts: GenerationCounts | None = None,
    ) -> None:
        self.plan, self.recorders, self.counts = plan, recorders or {}, counts
        depth, schedule = plan.depth, plan.schedule
        self.tables = tables or SimilarityTables.empty(depth, schedule)
        self.store = FeatureStore(plan.schedule, plan.config.interpolation_mode, plan.corrections)
        self._changes: Tensor | None = None
        probed = () if self.tables.assumed else probed_stages(plan.config, schedule)
        self._known_from = max(probed, default=-1) + 1
        self._measures = {
            module: measured_stages(plan.config, schedule, site, PROBE, self._row(module))
            for module, site in ((module_of(PROBE, site), site) for site in SITES if probed)
        }
        self.acts = bool(self.recorders) or not self.plan_is_final or plan.does_anything
        self._measured: list[tuple[float, Tensor]] = []
        self._cuts: tuple[int, ...] | None = None
        self._cut_slots()
        self._executed: dict[int, Action] = {}

    @property
    def plan_is_final(self) -> bool:
        """Whether no measurement will change the plan."""
        return self._known_from == 0

    def merge(self, cuts: Iterable[int] = ()) -> None:
        """Keep one sum for modules that are reused in a row.

        Args:
            cuts: modules that something else runs before, so that no sum may span it.
        """
        self._cuts = tuple(cuts)
        self._cut_slots()

    def _cut_slots(self) -> None:
        """What every stage keeps; module by module as long as nobody merges."""
        known_from = self.plan.schedule.num_stages if self._cuts is None else self._known_from
        self._slots = slots_of(self.plan, known_from, self._cuts or ())

    # --- one stage ----------------------------------------------------------------------------

    def begin_stage(self, si: int, rows: int) -> tuple[Action, ...]:
        """The actions of all modules of a stage of so many rows."""
        if self._measured and si >= self._known_from:
            self._adapt()
        self.store.open(rows, self._slots[si])
        self._executed = {}
        return self.plan[si]

    def note(self, module: int, action: Action) -> None:
        """Say what a module has done; of those that nobody speaks of, all was computed."""
        self._executed[module] = action

    def end_stage(self, si: int, rows: int, tokens: int) -> None:
        """Drop what later stages do not need, and count the stage, or a chunk of it.

        Args:
            rows, tokens: size of the stage.
        """
        self.store.close(si)
        if self.counts is not None:
            plan = self.plan
            for module in range(len(plan[si])):
                layer, site = place_of(module)
                action = self._executed.get(module, COMPUTE)
                eligible = is_eligible(plan.config, plan.schedule, site, si, layer)
                self.counts.count(layer, si, site, action, eligible, rows, tokens)
            self.counts.hold(self.store.bytes)

    def stop_guidance(self, rows: int) -> None:
        """Forget the rows without text, of which ``rows`` are left."""
        self.store.keep_rows(rows)
        if self.counts is not None:
            self.counts.stop_guidance(self.store.bytes)

    # --- one module of a block that is called -------------------------------------------------

    def output(
        self,
        layer: int,
        site: str,
        si: int,
        compute: Callable[[Tensor, Positions | None], Tensor],
        x: Tensor,
        positions: Positions | None,
    ) -> Tensor:
        """What a module puts out, (rows, n, C) before gamma: reused, or computed and kept.

        Args:
            layer, site, si: which module at which stage.
            compute: its output for tokens (rows, n', C) of the residual stream and their positions;
                all that a compiler sees, since what surrounds it is bookkeeping.
            x: the residual stream before the norm, (rows, n, C).
            positions: which positions of the map these are, None for all of them.
        """
        module = module_of(layer, site)
        action = self.plan[si][module]
        self.note(module, action)
        if action.reuse:
            return self._reused(module, si, action, positions)
        index, chosen, where = self._chosen(action, x, positions)
        return self._finished(module, si, action, compute(chosen, where), index, positions)

    @torch.compiler.disable
    def _reused(self, module: int, si: int, action: Action, positions: Positions | None) -> Tensor:
        self.store.defer(module)
        out = self.store.flush(si, positions)
        if out is None:
            raise RuntimeError(f"module {module} has kept nothing that stage {si} could reuse")
        if action.store_source:
            self.store.keep_source(module, si, out)
        return out

    @torch.compiler.disable
    def _chosen(
        self, action: Action, x: Tensor, positions: Positions | None
    ) -> tuple[Tensor | None, Tensor, Positions | None]:
        """Indices (rows, n') of the tokens to compute, None for all; the tokens; their positions.

        A stage that comes in chunks is pruned chunk by chunk: each keeps the same share.
        """
        keep = kept_tokens(x.shape[1], action.ratio)
        if keep == x.shape[1]:
            return None, x, positions
        index = self.choose(x, keep, positions)
        of_map = index if positions is None else positions[1].view(len(x), -1).gather(1, index)
        rows = torch.arange(len(x), device=x.device).repeat_interleave(keep)
        return index, select_positions(x, index), (rows, of_map.flatten())

    @torch.compiler.disable
    def _finished(
        self,
        module: int,
        si: int,
        action: Action,
        out: Tensor,
        index: Tensor | None,
        positions: Positions | None,
    ) -> Tensor:
        """The output from what was computed: made complete, compared and kept."""
        if index is not None:
            out = restore_tokens(out, index, self.store.source(module, si, positions))
        # The first stage may be the text, whose last position is the 1x1 map.
        as_map = out[:, -self.plan.schedule.lengths[0] :] if si == 0 else out
        if self.observes(module, si):
            self.observe(module, si, as_map, positions)
        if action.store_source:
            self.store.keep_source(module, si, as_map)
        if action.store:
            self.store.keep(module, si, as_map)
        return out

    def resume(self, si: int, outputs: Sequence[Tensor]) -> None:
        """Go on at stage ``si``, with the outputs (rows, n, C) of all modules at that before it."""
        source = pruning_source(self.plan.config, self.plan.schedule) == si - 1
        self.store.resume(si - 1, self._slots[si - 1], outputs, source)

    # --- left-out tokens ----------------------------------------------------------------------

    def wants_changes(self, si: int) -> bool:
        """Whether stage ``si`` chooses its tokens by what the stage before changed."""
        plan = self.plan
        if plan.token_choice != "stage" or si >= plan.schedule.num_stages:
            return False
        return any(action.ratio > 0 for action in plan[si])

    def note_changes(self, si: int, before: Tensor, after: Tensor) -> None:
        """The feature map (B, Z, P, P) before and after the stage that precedes ``si``."""
        self._changes = map_changes(before, after, self.plan.schedule.patch_nums[si])

    def choose(self, x: Tensor, keep: int, positions: Positions | None) -> Tensor:
        """Which ``keep`` tokens of the stream (rows, n, C) are computed: (rows, keep) ascending.

        By every module those that differ most from the mean of all (FastVAR), or by the stage those
        where the stage before changed the feature map most (as LazyVAR, 2026, does).
        """
        if self._changes is None:
            return split_tokens(x, keep)[0]
        changes = self._changes.repeat(len(x) // len(self._changes), 1)
        if positions is not None:
            changes = changes.gather(1, positions[1].view(len(x), -1))
        return split_by(changes, keep)[0]

    # --- measuring ----------------------------------------------------------------------------

    def observes(self, module: int, si: int) -> bool:
        """Whether :meth:`observe` wants to see the module's output."""
        calibrates = self._recorder(module) is not None
        return calibrates or self._probes(module, si) or self._probes(module, si + 1)

    def observe(self, module: int, si: int, out: Tensor, positions: Positions | None) -> None:
        """Compare a module's output, before gamma, with that of the stage before.

        Args:
            out: (rows, n, C); of a text its last position.
            positions: where in the map they are, None for all of them.
        """
        recorder, schedule = self._recorder(module), self.plan.schedule
        compares = recorder is not None or self._probes(module, si)
        similarity = self.store.similarity(module, si, out, positions) if compares else None
        if similarity is not None:
            column = schedule.column(si)
            if recorder is not None:
                recorder.record(module // 2, column, similarity, weight=out.shape[1])
            else:
                self._measured.append((self._row(module)[column], similarity))
        if recorder is not None or self._probes(module, si + 1):
            self.store.keep_compared(module, si, out)

    def _recorder(self, module: int) -> SimilarityRecorder | None:
        return self.recorders.get(place_of(module)[1])

    def _probes(self, module: int, si: int) -> bool:
        return si in self._measures.get(module, ())

    def _row(self, module: int) -> list[float]:
        layer, site = place_of(module)
        return self.tables.site(site)[layer]

    def _adapt(self) -> None:
        """Make the plan anew with what was measured. Waits for the device, once."""
        plan, calibrated = self.plan, [value for value, _ in self._measured]
        measured = torch.stack([value for _, value in self._measured]).tolist()
        self._measured = []
        threshold = adapted_threshold(plan.config, calibrated, measured)
        self.plan = decide_all(plan.config, plan.schedule, self.tables, threshold)
        self._cut_slots()
        if self.counts is not None:
            adapted = AdaptedThreshold(fmean(calibrated), fmean(measured), threshold)
            lengths = enumerate(plan.schedule.lengths)
            skipped = [si for si, length in lengths if length in plan.config.skip_stages]
            self.counts.thresholds = {si: adapted for si in skipped if si >= self._known_from}
