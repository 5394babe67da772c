"""Feature caching of a whole model: configuration, table, statistics, and a generation's cache."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import torch

from hart.modules.models.transformer.generation_state import GenerationSeconds
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.generation_cache import GenerationCache
from hart.modules.networks.caching.generation_counts import GenerationCounts
from hart.modules.networks.caching.multiply_adds import TransformerShape
from hart.modules.networks.caching.numbers import plain_list
from hart.modules.networks.caching.plan import Plan, decide_all, module_of
from hart.modules.networks.caching.similarity import SimilarityRecorder, SimilarityTables, Table
from hart.modules.networks.caching.similarity_io import (
    LoadedSimilarity,
    load_similarity,
    save_similarity,
)
from hart.modules.networks.caching.stages import StageSchedule
from hart.modules.networks.caching.statistics import CacheStatistics
from hart.modules.networks.caching.tuned_config import TunedConfig
from hart.utils.timing import Timeline
from hart.version import __version__

_running: ContextVar[tuple[FeatureCaching, GenerationCache | None] | None] = ContextVar(
    "running generation", default=None
)
_finishing = threading.Lock()
"""Held while a generation's counts and measurements are added to its model's."""


class FeatureCaching:
    """What a model knows about caching between two generations; ``model.caching``.

    Args:
        shape: sizes of the model.

    Attributes:
        config: what may be cached; see :meth:`set_config`.
        use: False turns caching off without forgetting its configuration.
        calibration: compute everything and measure; the measurements of every finished generation
            are merged into ``similarity``.
        similarity: calibrated similarities of both sites.
        similarity_path: the file that they were read from; None if they were not read from one.
        statistics: what was computed, reused and stored since the last reset.
        collect_statistics: False counts nothing and takes no times from the next image on.
    """

    def __init__(self, shape: TransformerShape) -> None:
        self.shape, self.schedule = shape, StageSchedule(shape.patch_nums)
        self.config, self.use, self.calibration = CacheConfig(), True, False
        self.statistics, self.collect_statistics = CacheStatistics(shape), True
        self._warned_empty = False
        self.clear()

    def set_config(self, config: CacheConfig, stacklevel: int = 2) -> None:
        """Use another configuration from the next image on; warns about what it cannot do here.

        Raises:
            ValueError: it is a plan for another model.
        """
        if isinstance(config, TunedConfig):
            config.require(self.schedule, self.shape.depth)
        config.warn_about(self.schedule, self.shape.depth, stacklevel=stacklevel + 1)
        self.config, self._warned_empty = config, False

    def plan(self) -> Plan:
        """Every decision of the next generation, from configuration and similarity data."""
        config = self.config
        if self.calibration or not self.use:
            config = CacheConfig(
                enable_attn_cache=False,
                enable_mlp_cache=False,
                interpolation_mode=config.interpolation_mode,
            )
        if isinstance(config, TunedConfig):
            return config.plan
        return decide_all(config, self.schedule, self.similarity)

    # --- similarity data ----------------------------------------------------------------------

    def clear(self) -> None:
        """Forget the similarity data; a generation that is running keeps what it began with."""
        self.similarity = SimilarityTables.empty(self.shape.depth, self.schedule)
        self.similarity_path: Path | None = None

    def load(self, path: str | Path, fingerprint: str | None) -> LoadedSimilarity:
        """Read similarity data, see :meth:`FeatureCachingMixin.load_similarity_data`.

        Args:
            fingerprint: of the model's weights.
        """
        loaded = load_similarity(Path(path), self.shape.depth, self.schedule)
        measured_with = getattr(loaded.provenance, "fingerprint", None)
        if measured_with and fingerprint not in (measured_with, None):
            warnings.warn(f"{path}: measured with other weights than this model's", stacklevel=3)
        self.similarity, self.similarity_path = loaded.tables, Path(path)
        self._warned_empty = False
        return loaded

    def save(self, path: Path, fingerprint: str | None) -> None:
        """Write the similarity data; the suffix chooses the format (.json, .pt or .pkl)."""
        save_similarity(
            path,
            self.similarity,
            self.schedule,
            fingerprint=fingerprint,
            library_version=__version__,
        )

    def replace_table(self, site: str, table: Table) -> None:
        """Put a table of the user's in the place of one site's.

        Raises:
            ValueError: it does not fit the model.
        """
        tables = {name: self.similarity.site(name) for name in SITES}
        tables[site] = [plain_list(row) for row in plain_list(table)]
        replaced = SimilarityTables(tables["attn"], tables["mlp"], self.similarity.images)
        replaced.validate(self.shape.depth, self.schedule)
        self.similarity = replaced

    # --- a generation -------------------------------------------------------------------------

    @contextlib.contextmanager
    def generation(
        self,
        bsz: int,
        timeline: Timeline | None,
        statistics: CacheStatistics | None,
        device: torch.device,
    ) -> Iterator[tuple[Timeline | None, GenerationCache | None]]:
        """The timeline and the cache of one generation of ``bsz`` images.

        What it counted and measured is added at its end, unless it fails; the counts to
        ``statistics``, or to those of the model.
        """
        recorders, counts, plan = None, None, self.plan()
        if self.calibration:
            shape = (self.shape.depth, self.schedule.width)
            recorders = {site: SimilarityRecorder(*shape) for site in SITES}
        if self.collect_statistics:
            counts, timeline = GenerationCounts(self.shape), timeline or Timeline(device)
        cache = None
        if recorders or counts is not None or plan.config.changes_anything:
            cache = GenerationCache(plan, self.similarity, recorders, counts)
        self._warn_if_empty(plan.config)
        token = _running.set((self, cache))
        try:
            yield timeline, cache
        finally:
            _running.reset(token)
        with _finishing:
            if recorders:
                self.similarity = self.similarity.including(recorders, bsz)
            if counts is not None and timeline is not None:
                seconds = partial(GenerationSeconds.of, timeline, len(self.shape.patch_nums))
                (statistics or self.statistics).add(counts, bsz, seconds)

    def _warn_if_empty(self, config: CacheConfig) -> None:
        if config.caches_anything and self.similarity.is_empty and not self._warned_empty:
            self._warned_empty = True
            warnings.warn(
                "the similarity table is empty, so reuse saves nothing: calibrate first or load "
                "one",
                stacklevel=7,
            )

    @property
    def running(self) -> GenerationCache | None:
        """The cache of the generation of this model that this thread is in the middle of."""
        caching, cache = _running.get() or (None, None)
        return cache if caching is self else None

    def stored(self, site: str) -> list[torch.Tensor | None]:
        """Per block the output that the running generation has stored, or None."""
        layers = range(self.shape.depth)
        if self.running is None:
            return [None for _ in layers]
        return [self.running.store.stored(module_of(layer, site)) for layer in layers]
