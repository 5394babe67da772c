"""What the caches of one generation share: stored sources and keys, adapted thresholds, counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

import torch
from torch import Tensor

from .config import CacheConfig
from .decisions import adapted_threshold, probed_stages
from .generation_counts import AdaptedThreshold, GenerationCounts
from .similarity import Table
from .stages import StageSchedule


@dataclass
class CacheRun:
    """State that the blocks of one generation share; owned by the call that generates.

    Attributes:
        config, schedule: what may be cached, and the model's stages.
        counts: where module calls, thresholds and bytes are counted, None to count nothing.
        sources: (site, layer) -> output at the source stage of the pruned ones, (rows, tokens, C).
        keys: layer -> stage index, and the keys and values of its tokens as projected,
            (rows, tokens, 2 C).
        table_is_assumed: whether the probe has nothing to be compared with, see
            :class:`SimilarityTables`.
        stored: per site and layer the output kept at the previous stage, (rows, tokens, C), or
            None. Not given to blocks as an argument: what moves a call's arguments to another
            device copies lists, and what is stored would be lost.
        tables: the similarity tables of the sites, or recorders in their place.
    """

    config: CacheConfig
    schedule: StageSchedule
    counts: GenerationCounts | None = None
    sources: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    keys: dict[int, tuple[int, Tensor]] = field(default_factory=dict)
    table_is_assumed: bool = False
    stored: dict[str, list[Tensor | None]] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    _measured: list[tuple[float, Tensor]] = field(default_factory=list)

    def probe(self, calibrated: float, measured: Tensor) -> None:
        """Note how similar the probe's output was to the interpolated stored one."""
        self._measured.append((calibrated, measured))

    def threshold(self, si: int) -> float:
        """Threshold of stage ``si``; adapted at the skip stages after what was probed.

        Waits for the device once per generation, and only with the adaptive threshold.
        """
        may_reuse = si > self._last_probed and self.schedule.lengths[si] in self.config.skip_stages
        if not may_reuse or not self._measured:
            return self.config.threshold
        if self.counts is not None:
            self.counts.thresholds[si] = self._adapted
        return self._adapted.effective

    @cached_property
    def _last_probed(self) -> int:
        return max(probed_stages(self.config, self.schedule), default=0)

    @cached_property
    def _adapted(self) -> AdaptedThreshold:
        calibrated = [value for value, _ in self._measured]
        measured = torch.stack([value for _, value in self._measured]).tolist()
        effective = adapted_threshold(self.config, calibrated, measured)
        return AdaptedThreshold(fmean(calibrated), fmean(measured), effective)

    def hold(self, new: Tensor | None, old: Tensor | None) -> None:
        """Note that ``new`` is kept in the place of ``old``."""
        if self.counts is not None:
            self.counts.hold(_size_bytes(new) - _size_bytes(old))

    def stop_guidance(self) -> None:
        """Forget the half of the rows without text."""
        halves: dict[int, tuple[Tensor, Tensor]] = {}  # by identity: some are in two places

        def half(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            if id(tensor) not in halves:
                kept = tensor[: len(tensor) // 2].clone()  # a view would keep all of it alive
                self.hold(kept, tensor)
                halves[id(tensor)] = tensor, kept
            return halves[id(tensor)][1]

        for outputs in self.stored.values():
            outputs[:] = map(half, outputs)
        self.sources = {module: half(output) for module, output in self.sources.items()}
        self.keys = {layer: (si, half(keys)) for layer, (si, keys) in self.keys.items()}
        if self.counts is not None:
            self.counts.stop_guidance()


def _size_bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.nbytes
