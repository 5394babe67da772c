"""One module's turn at one stage: reuse, compute, measure, keep.

:class:`CacheRun` is what the blocks of one generation share; :class:`SiteCache` is handed to one
attention or MLP for one call and calls it back when it has to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .config import CacheConfig
from .decisions import Action, adapted_threshold, decide_module, is_eligible, is_probe
from .generation_counts import AdaptedThreshold, GenerationCounts
from .interpolate import interpolate_features, select_positions
from .similarity import SimilarityRecorder, cosine_similarity
from .stages import StageSchedule


@dataclass
class CacheRun:
    """State that the blocks of one generation share; owned by the call that generates.

    Attributes:
        config, schedule: what may be cached, and the model's stages.
        counts: where module calls, thresholds and bytes are counted, None to count nothing.
    """

    config: CacheConfig
    schedule: StageSchedule
    counts: GenerationCounts | None = None
    _probed: dict[int, list[tuple[float, Tensor]]] = field(default_factory=dict)
    _thresholds: dict[int, AdaptedThreshold] = field(default_factory=dict)

    def probe(self, si: int, calibrated: float, measured: Tensor) -> None:
        """Note how similar the first block's output was to the interpolated stored one."""
        self._probed.setdefault(si, []).append((calibrated, measured))

    def threshold(self, si: int) -> float:
        """Threshold of stage ``si``; adapted if its first block was probed.

        Waits for the device once per stage, and only with the adaptive threshold.
        """
        if si not in self._probed:
            return self.config.threshold
        if si not in self._thresholds:
            self._thresholds[si] = self._adapt(si)
            if self.counts is not None:
                self.counts.thresholds[si] = self._thresholds[si]
        return self._thresholds[si].effective

    def _adapt(self, si: int) -> AdaptedThreshold:
        similarities = zip(*self._probed[si], strict=True)
        calibrated, measured = (float(sum(values)) / len(values) for values in similarities)
        effective = adapted_threshold(self.config, calibrated, measured)
        return AdaptedThreshold(calibrated, measured, effective)


@dataclass
class SiteCache:
    """The cache as one module sees it during one call.

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

    def __call__(self, compute: Callable[[], Tensor]) -> Tensor:
        """The module's output (rows, n, C): reused, or computed by ``compute``."""
        if isinstance(self.table, SimilarityRecorder):
            return self._calibrate(compute)
        action = self._decide()
        if action.reuse:
            out = self._interpolated()
        else:
            out = compute()
            self._probe(out)
        self._count(action, out)
        self._keep(out if action.store else None)
        return out

    def _decide(self) -> Action:
        config = self.run.config
        probing = is_probe(config, self.layer)
        return decide_module(
            config,
            self.run.schedule,
            self.site,
            self.si,
            self.table[self.layer],
            self.stored[self.layer] is not None,
            None if probing else self.run.threshold(self.si),
            probe=probing,
        )

    def _calibrate(self, compute: Callable[[], Tensor]) -> Tensor:
        out = compute()
        if self.stored[self.layer] is not None:
            similarity = cosine_similarity(self._interpolated(), out)
            column = self.run.schedule.column(self.si)
            self.table.record(self.layer, column, similarity, weight=out.shape[1])
        self._count(Action(), out)
        self._keep(out)
        return out

    def _probe(self, out: Tensor) -> None:
        config, schedule = self.run.config, self.run.schedule
        if (
            is_probe(config, self.layer)
            and is_eligible(config, schedule, self.site, self.si)
            and self.stored[self.layer] is not None
        ):
            calibrated = self.table[self.layer][schedule.column(self.si)]
            self.run.probe(self.si, calibrated, cosine_similarity(self._interpolated(), out))

    def _interpolated(self) -> Tensor:
        sides = self.run.schedule.patch_nums
        full = interpolate_features(
            self.stored[self.layer],
            sides[self.si - 1],
            sides[self.si],
            self.run.config.interpolation_mode,
        )
        return full if self.m_maskgit is None else select_positions(full, self.m_maskgit)

    def _keep(self, out: Tensor | None) -> None:
        """Replace what the previous stage stored; the last stage may come in chunks that share it.

        The first stage may be the text, whose last position is the 1x1 map.
        """
        if self.si < 0 or self.si == self.run.schedule.num_stages - 1:
            return
        kept = out
        if self.si == 0 and out is not None:
            kept = out[:, -self.run.schedule.lengths[0] :].clone()
        if self.run.counts is not None:
            self.run.counts.hold(_size_bytes(kept) - _size_bytes(self.stored[self.layer]))
        self.stored[self.layer] = kept

    def _count(self, action: Action, out: Tensor) -> None:
        run = self.run
        if run.counts is not None:
            eligible = is_eligible(run.config, run.schedule, self.site, self.si)
            rows, tokens = out.shape[:2]
            run.counts.count(self.layer, self.si, self.site, action, eligible, rows, tokens)


def _size_bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()
