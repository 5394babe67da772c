"""Where outputs are kept that stand in for later ones: the only place.

Modules in a row that are reused together add their outputs to the residual stream, and nothing in
between looks at it. Interpolation is linear, so their sum can be kept, resized and added instead.
Such a row of modules is a *slot*. What a slot holds stays as small as it was computed, sorted by
stage, and is resized once, when somebody looks at the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from .corrections import Correction, Corrector
from .interpolate import interpolate_features, select_positions
from .plan import Plan
from .pruning import resize_area
from .similarity import cosine_similarity
from .stages import StageSchedule

Positions = tuple[Tensor, Tensor]
"""Which positions of the map a call covers, as ``nonzero(as_tuple=True)`` gives them."""

Parts = dict[int, Tensor]
"""By stage index the sum of the outputs that were computed there, (rows, tokens, C)."""

_ALL = slice(None)


class Slot(NamedTuple):
    """Modules ``start`` to ``stop - 1``."""

    start: int
    stop: int

    def holds(self, other: Slot) -> bool:
        return self.start <= other.start and other.stop <= self.stop


def single(module: int) -> Slot:
    """The slot of one module."""
    return Slot(module, module + 1)


def slots_of(plan: Plan, known_from: int = 0, cuts: Iterable[int] = ()) -> list[list[Slot]]:
    """Per stage index the slots that its outputs are kept in, for the stage after it.

    Args:
        known_from: first stage whose actions are final; what is kept for it is kept module by
            module.
        cuts: modules that no slot may span together with the one before them.
    """
    kept: list[list[Slot]] = [[]]
    for si in reversed(range(1, plan.schedule.num_stages)):
        before, actions = plan[si - 1], plan[si]
        if si <= known_from:
            kept.append([single(m) for m, action in enumerate(before) if action.store])
            continue
        # What the next stage takes as one sum must not be part of a larger sum here, and what
        # stands in for left-out tokens is wanted by itself.
        bounds = {*cuts, *(bound for slot in kept[-1] for bound in slot)}
        alone = [m for m, action in enumerate(actions) if action.reuse and action.store_source]
        bounds.update(m + after for m in alone for after in (0, 1))
        kept.append(_rows_of_reused([action.reuse for action in actions], bounds))
    return kept[::-1]


def _rows_of_reused(reused: list[bool], bounds: set[int]) -> list[Slot]:
    slots: list[Slot] = []
    for module in (m for m, is_reused in enumerate(reused) if is_reused):
        if slots and slots[-1].stop == module and module not in bounds:
            slots[-1] = Slot(slots[-1].start, module + 1)
        else:
            slots.append(single(module))
    return slots


class FeatureStore:
    """What one generation keeps of its modules' outputs, as maps (rows, tokens, C).

    Args:
        schedule: the model's stages.
        mode: how reused outputs are resized.
        corrections: of outputs that are kept for reuse.

    Attributes:
        slots: what the stage before kept for this one.
        sources: by module its output at the source stage of the pruned ones.
        compared: by module its output at the stage before, where similarities are measured.
    """

    def __init__(
        self, schedule: StageSchedule, mode: str, corrections: Iterable[Correction] = ()
    ) -> None:
        self.schedule, self.mode = schedule, mode
        self._corrected = Corrector(corrections)
        self.slots: dict[Slot, Parts] = {}
        self.sources: dict[int, Tensor] = {}
        self.compared: dict[int, Tensor] = {}
        self._next: dict[Slot, Parts] = {}
        self._pending: list[Parts] = []
        self._rows = 0

    def open(self, rows: int, slots: Iterable[Slot]) -> None:
        """Begin a stage of so many rows, whose outputs are kept in ``slots``."""
        self._rows, self._next = rows, {slot: {} for slot in slots}

    def close(self, si: int) -> None:
        """End a stage and drop what it did not keep; the last one's chunks share what there is."""
        if si < self.schedule.last:
            self.slots, self._next = self._next, {}

    def resume(
        self, si: int, slots: Iterable[Slot], outputs: Sequence[Tensor], source: bool
    ) -> None:
        """Keep what a stage that somebody else has run would have kept.

        Args:
            si: of that stage.
            slots: that it keeps outputs in.
            outputs: of all modules, (rows, n, C) each; they are not changed.
            source: whether they stand in for those of left-out tokens later.
        """
        for slot in slots:
            modules = range(slot.start, slot.stop)
            first, *others = (self._corrected(m, si, outputs[m]) for m in modules)
            self.slots[slot] = {si: sum(others, start=first)}
        if source:
            self.sources = dict(enumerate(outputs))

    def keep_rows(self, rows: int) -> None:
        """Forget all rows but the first ones."""
        kept: dict[int, Tensor] = {}  # by identity: some are in two places

        def first(tensor: Tensor) -> Tensor:  # a view would keep all of it alive
            if id(tensor) not in kept:
                kept[id(tensor)] = tensor[:rows].clone()
            return kept[id(tensor)]

        for tensors in (*self.slots.values(), self.sources, self.compared):
            tensors.update({key: first(tensor) for key, tensor in tensors.items()})

    @property
    def bytes(self) -> int:
        """Size of what is kept for later stages."""
        containers = (*self.slots.values(), self.sources, self.compared)
        return sum({id(t): t.nbytes for kept in containers for t in kept.values()}.values())

    # --- what is computed ---------------------------------------------------------------------

    def keep(
        self, module: int, si: int, out: Tensor, rows: slice = _ALL, piece: slice = _ALL
    ) -> None:
        """Add an output to the slot that the module is in, if it is in any.

        Args:
            out: (r, n, C); one row stands for all of ``rows``.
            rows, piece: which rows and tokens of the stage's map these are.
        """
        parts = next((p for slot, p in self._next.items() if slot.holds(single(module))), None)
        if parts is not None:
            if si not in parts:
                parts[si] = self._map(si, out).zero_()
            parts[si][rows, piece] += self._corrected(module, si, out)

    def keep_source(
        self, module: int, si: int, out: Tensor, rows: slice = _ALL, piece: slice = _ALL
    ) -> None:
        """Keep an output for the left-out tokens of later stages; arguments as for :meth:`keep`."""
        if module not in self.sources:
            self.sources[module] = self._map(si, out)
        self.sources[module][rows, piece] = out

    def _map(self, si: int, like: Tensor) -> Tensor:
        return like.new_empty(self._rows, self.schedule.lengths[si], like.shape[-1])

    def source(self, module: int, si: int, positions: Positions | None) -> Tensor:
        """The output at the source stage, resized to stage ``si``, at the positions of a call."""
        sides, kept = self.schedule.patch_nums, self.sources[module]
        side = sides[self.schedule.lengths.index(kept.shape[1])]
        return _at(resize_area(kept, side, sides[si]), positions)

    # --- what is reused -----------------------------------------------------------------------

    def defer(self, module: int) -> None:
        """Reuse a module: :meth:`flush` gives what its slot adds."""
        slot = next((slot for slot in self.slots if slot.start == module), None)
        if slot is None:  # the slot's first module has brought it along
            return
        parts = self.slots[slot]
        self._pending.append(parts)
        onwards = next((p for wider, p in self._next.items() if wider.holds(slot)), None)
        if onwards is not None:
            for since, part in parts.items():
                onwards[since] = onwards[since] + part if since in onwards else part

    def flush(self, si: int, positions: Positions | None = None) -> Tensor | None:
        """The sum of what was deferred at stage ``si``, (rows, n, C); None if nothing was."""
        pending, self._pending = self._pending, []
        return _at(self._sum(pending, si), positions) if pending else None

    def kept(self, module: int, si: int) -> Tensor | None:
        """What stage ``si`` has kept of one module, as that stage's map."""
        parts = self._next.get(single(module))
        return self._sum([parts], si) if parts else None

    def stored(self, module: int) -> Tensor | None:
        """What stands in for one module at the next stage, as its youngest map."""
        parts = self.slots.get(single(module))
        return self._sum([parts], max(parts)) if parts else self.compared.get(module)

    def resized(self, module: int, si: int, positions: Positions | None = None) -> Tensor:
        """What would stand in at stage ``si`` for one module that is kept by itself."""
        return _at(self._sum([self.slots[single(module)]], si), positions)

    def _sum(self, several: list[Parts], si: int) -> Tensor:
        """Resized from stage to stage; what is younger joins on the way."""
        sides, first = self.schedule.patch_nums, min(map(min, several))
        total = _sum_at(first, several)
        for since in range(first + 1, si + 1):
            total = interpolate_features(total, sides[since - 1], sides[since], self.mode)
            if any(since in parts for parts in several):
                total = total + _sum_at(since, several)
        return total

    # --- what is compared ---------------------------------------------------------------------

    def keep_compared(self, module: int, si: int, out: Tensor) -> None:
        """Keep an output to compare that of the next stage with, if there is one."""
        if si < self.schedule.last:
            self.compared[module] = out.clone() if si == 0 else out  # of a text a part

    def similarity(
        self, module: int, si: int, out: Tensor, positions: Positions | None
    ) -> Tensor | None:
        """How similar an output is to that of the stage before; None if that was not kept."""
        before = self.compared.get(module)
        if before is None:
            return None
        sides = self.schedule.patch_nums
        resized = interpolate_features(before, sides[si - 1], sides[si], self.mode)
        if si < self.schedule.last:
            del self.compared[module]
        return cosine_similarity(_at(resized, positions), out)


def _sum_at(since: int, several: list[Parts]) -> Tensor:
    first, *others = (parts[since] for parts in several if since in parts)
    return sum(others, start=first)


def _at(full: Tensor, positions: Positions | None) -> Tensor:
    return full if positions is None else select_positions(full, positions)
