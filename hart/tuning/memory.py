"""How many bytes a selection needs at its peak, from those of drawing without caching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.modules.networks.caching.multiply_adds import TransformerShape
from hart.modules.networks.caching.plan import kept_tokens
from hart.modules.networks.caching.store import slots_of
from hart.tuning.selection import Selection

if TYPE_CHECKING:
    from hart.tuning.measurements import Measurements

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def predicted_bytes(measurements: Measurements, selection: Selection) -> float:
    """Peak of one image: that without caching, with the keys and kept outputs of a selection."""
    assert measurements.memory_bytes is not None
    nothing = Selection((0,) * len(selection.reused))
    own, whole = (_peak_vectors(measurements, each) for each in (selection, nothing))
    number = _BYTES.get(measurements.settings.get("dtype", "float32"), 4)
    return measurements.memory_bytes + number * measurements.shape.embed_dim * (own - whole)


def _peak_vectors(measurements: Measurements, selection: Selection) -> int:
    """Most vectors of the model's width that one image's keys, values and kept outputs take."""
    shape, plan = measurements.shape, selection.config(measurements.schedule).plan
    slots, last = slots_of(plan), len(shape.patch_nums) - 1
    held, before, sources, peak, rows = 0, 0, 0, 0, 2
    for si, tokens in enumerate(shape.new_tokens):
        if si == last + 1 - selection.unguided:
            rows, held, before, sources = 1, held // 2, before // 2, sources // 2
        actions = plan[si]
        keys = [0 if a.reuse else rows * kept_tokens(tokens, a.ratio) for a in actions[::2]]
        # The last stage's keys live for one layer at a time.
        used = held + (max(keys) if si == last else sum(keys))
        kept = _kept(shape, si, rows, len(slots[si]))
        sources += _kept(shape, si, rows, sum(action.store_source for action in actions))
        peak = max(peak, 2 * used + before + kept + sources)
        held, before = used, kept
    return peak


def _kept(shape: TransformerShape, si: int, rows: int, maps: int) -> int:
    return rows * maps * shape.stage_lengths[si]
