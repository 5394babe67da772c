"""What caching did over many generations, and how much arithmetic it saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .config import SITES
from .generation_counts import (
    CALLS,
    GenerationCounts,
    SiteCounts,
    no_counts,
    no_layer_counts,
    per_image,
)
from .multiply_adds import TransformerShape
from .similarity import SimilarityTables

StageSeconds = tuple[Sequence[float], float]
"""Seconds of each stage that ran, and of the residual diffusion head."""


@dataclass
class Spread:
    """Mean, least and greatest of the numbers added so far."""

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.least = min(self.least, value)
        self.greatest = max(self.greatest, value)

    def to_dict(self) -> dict[str, float]:
        return {"mean": self.total / self.count, "min": self.least, "max": self.greatest}


class CacheStatistics:
    """Sums over the images finished since the last reset, the same in any batching.

    Args:
        shape: sizes of the model.

    Attributes:
        images: images drawn.
        peak_bytes: largest size of the stored outputs.
        reused_by_layer: per site, stage index and layer the calls that reused, for every image.
        peak_keys: largest number of tokens in the key/value cache, over rows and layers.
    """

    def __init__(self, shape: TransformerShape) -> None:
        self.shape = shape
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.images = 0
        self.peak_bytes = 0
        self.reused_by_layer = no_layer_counts(self.shape)
        self.peak_keys = 0
        self._stages = no_counts(self.shape)
        self._thresholds: dict[int, dict[str, Spread]] = {}
        self._stages_s = [0.0] * len(self.shape.patch_nums)
        self._residual_s = 0.0
        self._unread: Callable[[], StageSeconds] | None = None

    def add(
        self, counts: GenerationCounts, images: int, seconds: Callable[[], StageSeconds]
    ) -> None:
        """Include a finished generation.

        Args:
            counts: what its modules did.
            images: how many it drew.
            seconds: reads its clock. Called as late as possible, because that may wait for the
                device: when the seconds are asked for, or when the next generation is finished.
        """
        self.images += images
        self.peak_bytes = max(self.peak_bytes, counts.peak_bytes)
        self.peak_keys = max(self.peak_keys, counts.peak_keys)
        for own, stage in zip(self._stages, counts.stages, strict=True):
            for site in SITES:
                own[site].add(stage[site], images)
        for site in SITES:
            for total, added in zip(
                self.reused_by_layer[site], counts.reused_by_layer[site], strict=True
            ):
                total[:] = [old + images * new for old, new in zip(total, added, strict=True)]
        for si, threshold in counts.thresholds.items():
            spreads = self._thresholds.setdefault(si, {})
            for name, value in threshold._asdict().items():
                spreads.setdefault(name, Spread()).add(value)
        self._read_seconds()
        self._unread = seconds

    def _read_seconds(self) -> None:
        """Add the last generation's seconds, if nobody has yet."""
        if self._unread is None:
            return
        stages_s, residual_s = self._unread()
        self._unread = None
        for si, stage_s in enumerate(stages_s):
            self._stages_s[si] += stage_s
        self._residual_s += residual_s

    def __getstate__(self) -> dict[str, Any]:
        """A copy holds seconds: a device's clock can be neither copied nor pickled."""
        self._read_seconds()
        return self.__dict__.copy()

    def counts(self, si: int, site: str) -> SiteCounts:
        """The counts of one stage and site."""
        return self._stages[si][site]

    def total(self, *sites: str) -> SiteCounts:
        """The counts of ``sites``, by default of both, over all stages."""
        total = SiteCounts()
        for stage in self._stages:
            for site in sites or SITES:
                total.add(stage[site])
        return total

    @property
    def saved_share(self) -> float:
        """Share in [0, 1] of the blocks' multiply-adds that was saved, interpolation left out."""
        total = self.total()
        whole = total.multiply_adds_computed + total.multiply_adds_saved
        return total.multiply_adds_saved / whole if whole else 0.0

    @property
    def saved_share_by(self) -> dict[str, float]:
        """The parts of :attr:`saved_share` by what saved them, see :class:`SiteCounts`."""
        total = self.total()
        whole = total.multiply_adds_computed + total.multiply_adds_saved
        return {
            cause: saved / whole if whole else 0.0
            for cause, saved in total.multiply_adds_saved_by.items()
        }

    def modules(self) -> dict[str, float]:
        """Module calls of one image: ``all``, and the ``reused`` and ``pruned`` ones of them.

        Every module is called once at every stage, and at a last stage that comes in chunks once
        for each of them.
        """
        total = self.total()
        sums = {"all": total.computed + total.reused, "reused": total.reused}
        return {
            name: per_image(number, self.images or 1)
            for name, number in {**sums, "pruned": total.pruned}.items()
        }

    def calls(self) -> dict[str, dict[str, dict[str, int]]]:
        """Number of module calls, for every image.

        Token count of the stage -> site -> one of :data:`CALLS`.
        """
        return {
            length: {site: {kind: getattr(stage[site], kind) for kind in CALLS} for site in SITES}
            for length, stage in zip(self._stage_names, self._stages, strict=True)
        }

    @property
    def _stage_names(self) -> list[str]:
        return [str(length) for length in self.shape.stage_lengths]

    def to_dict(self, running: GenerationCounts | None = None) -> dict[str, Any]:
        """Everything, JSON-able; stages are named by their token count. Waits for the device.

        Calls are those of one image, the mean over all; multiply-adds and seconds those of all.

        Args:
            running: a generation that is not finished. Only its bytes are included.
        """
        self._read_seconds()
        names, total, images = self._stage_names, self.total(), self.images or 1
        return {
            "images": self.images,
            "modules": self.modules(),
            "totals": {site: self.total(site).to_dict(images) for site in SITES},
            "stages": {
                name: {site: stage[site].to_dict(images) for site in SITES}
                for name, stage in zip(names, self._stages, strict=True)
            },
            "saved_share": self.saved_share,
            "saved_share_by": self.saved_share_by,
            "multiply_adds": {
                "computed": total.multiply_adds_computed,
                "saved": total.multiply_adds_saved,
                "saved_by": total.multiply_adds_saved_by,
            },
            "seconds": {
                "stages": dict(zip(names, self._stages_s, strict=True)),
                "residual": self._residual_s,
            },
            "feature_cache_bytes": {
                "now": running.held_bytes if running else 0,
                "peak": max(self.peak_bytes, running.peak_bytes if running else 0),
            },
            "key_value_tokens": {"peak": self.peak_keys},
            "thresholds": {
                names[si]: {name: spread.to_dict() for name, spread in spreads.items()}
                for si, spreads in sorted(self._thresholds.items())
            },
        }


def similarity_stats(tables: SimilarityTables) -> dict[str, Any]:
    """JSON-able summary of similarity tables: images, and per site how many entries and which."""
    stats: dict[str, Any] = {"images": tables.images}
    for site in SITES:
        values = [value for row in tables.site(site) for value in row if value != 0.0]
        stats[site] = {
            "measured": len(values),
            "mean": sum(values) / len(values) if values else 0.0,
            "min": min(values, default=0.0),
            "max": max(values, default=0.0),
        }
    return stats
