"""Feature caching of a whole model: its configuration, tables, statistics and state."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from hart.modules.models.transformer.generation_state import Generation, GenerationSeconds
from hart.modules.models.transformer.saved_similarity import SavedSimilarityMixin
from hart.modules.networks.basic_hart import mlp_hidden_size
from hart.modules.networks.caching.cache_options import (
    OPTION_NAMES,
    add_cache_arguments,
    resolve_cache_config,
    resolve_use_cache,
)
from hart.modules.networks.caching.cache_run import CacheRun
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.decisions import DecisionPlan, decide_all
from hart.modules.networks.caching.generation_counts import GenerationCounts
from hart.modules.networks.caching.multiply_adds import TransformerShape
from hart.modules.networks.caching.numbers import plain_list
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.prune_plan import guidance_stop
from hart.modules.networks.caching.similarity import SimilarityRecorder, SimilarityTables, Table
from hart.modules.networks.caching.similarity_io import load_similarity
from hart.modules.networks.caching.site_cache import SiteCache
from hart.modules.networks.caching.stages import StageSchedule
from hart.modules.networks.caching.statistics import CacheStatistics, similarity_stats
from hart.modules.networks.rope import MaskIndex
from hart.utils.hub import is_hub_name
from hart.utils.timing import Timeline


class FeatureCachingMixin(SavedSimilarityMixin):
    """In front of a plain model: its blocks can reuse the previous stage's outputs.

    The plain model is a :class:`StageTransformer` with a sampler; ``block_class`` is its block with
    feature caching. The state dict stays the plain model's, so every checkpoint of it loads.
    Caching is configured by the ``cache_*`` fields of the configuration or
    :meth:`set_cache_config`, and needs similarity data: :meth:`load_similarity_data`, or
    generations with ``calibration`` set.

    Attributes:
        use_cache: False turns caching off without forgetting its configuration.
        calibration: compute everything and measure; the measurements of every finished generation
            are merged into ``similarity``.
        similarity: calibrated similarities of both sites.
        cache_statistics: what was computed, reused and stored since the last reset.
        collect_cache_statistics: False counts nothing and takes no times from the next image on.
        cache_attn, cache_mlp: stored outputs per block while a generation runs, else None.
    """

    caches_features = True

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        self.schedule = StageSchedule(self.patch_nums)
        self.clear_similarity_data()
        self.cache_statistics = CacheStatistics(self.transformer_shape)
        self.collect_cache_statistics = True
        self.use_cache = resolve_use_cache(None, config)
        self.calibration = bool(config.calibration)
        self._release()
        self._install(resolve_cache_config(None, config, self.patch_nums))
        if config.sim_path and Path(config.sim_path).is_file():
            self.similarity_path = Path(config.sim_path)
            self.similarity = load_similarity(
                self.similarity_path, self.depth, self.schedule
            ).tables

    # --- configuration ------------------------------------------------------------------------

    @staticmethod
    def add_cache_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add every cache flag to an argument parser; see ``cache_options``."""
        return add_cache_arguments(parser)

    @classmethod
    def from_args_and_config(cls, args: argparse.Namespace, config: PretrainedConfig):
        """Build a model as parsed flags and a configuration say.

        The weights are those of ``args.model_path``, else of the place that the configuration
        came from, a folder or a model on the hub; without any the model has fresh weights.
        """
        path = getattr(args, "model_path", None) or config.name_or_path
        if path and (is_hub_name(path) or cls.holds_weights(Path(path))):
            model = cls.from_pretrained(path, config=config)
        else:
            model = cls(config)
        model.apply_cache_arguments(args)
        return model

    def apply_cache_arguments(self, args: argparse.Namespace) -> None:
        """Take over cache flags: configuration, ``use_cache``, ``calibration``, ``sim_path``.

        ``sim_path`` is read if it exists; with ``calibration`` it may be a file to be written.
        """
        self.set_cache_config(resolve_cache_config(args, self.config, self.patch_nums))
        self.use_cache = resolve_use_cache(args, self.config)
        if getattr(args, "calibration", None) is not None:
            self.calibration = args.calibration
        sim_path = getattr(args, "sim_path", None)
        if sim_path is not None:
            self.config.sim_path = str(sim_path)
            if Path(sim_path).is_file() or not self.calibration:
                self.load_similarity_data(sim_path)

    def set_cache_config(self, config: CacheConfig | str) -> None:
        """Use another cache configuration, or a preset by name, from the next image on.

        The ``cache_*`` fields of ``self.config`` follow, so that ``save_pretrained`` keeps it.

        Raises:
            TypeError: neither a CacheConfig nor a name.
            ValueError: unknown preset.
            RuntimeError: a generation is running.
        """
        if isinstance(config, str):
            config = preset_config(config, self.patch_nums)
        if not isinstance(config, CacheConfig):
            raise TypeError(f"config must be a CacheConfig or a preset name, got {config!r}")
        if self._generating:
            raise RuntimeError("the cache configuration cannot change while an image is generated")
        self._install(config)
        values = config.to_dict()
        for field, name in OPTION_NAMES.items():
            setattr(self.config, name, values.get(field))

    def _install(self, config: CacheConfig) -> None:
        config.warn_about(self.schedule, self.depth, stacklevel=4)
        self.cache_config = config
        self._warned_empty = False
        for block in self.blocks:
            block.cache_config = config

    # --- similarity data ----------------------------------------------------------------------

    @property
    def cache_similarity_attn(self) -> Table:
        """Similarities of the attention outputs: ``depth`` rows, one column per transition."""
        return self.similarity.attn

    @cache_similarity_attn.setter
    def cache_similarity_attn(self, table: Table) -> None:
        self._replace_table(attn=table)

    @property
    def cache_similarity_mlp(self) -> Table:
        """Similarities of the MLP outputs: ``depth`` rows, one column per transition."""
        return self.similarity.mlp

    @cache_similarity_mlp.setter
    def cache_similarity_mlp(self, table: Table) -> None:
        self._replace_table(mlp=table)

    def _replace_table(self, **tables: Table) -> None:
        tables = {site: [plain_list(row) for row in plain_list(t)] for site, t in tables.items()}
        current = {site: self.similarity.site(site) for site in SITES}
        replaced = SimilarityTables(**{**current, **tables}, images=self.similarity.images)
        replaced.validate(self.depth, self.schedule)
        self.similarity = replaced

    # --- what it does and did -----------------------------------------------------------------

    @property
    def transformer_shape(self) -> TransformerShape:
        """The sizes that the number of multiply-adds depends on."""
        return TransformerShape(
            depth=self.depth,
            embed_dim=self.C,
            mlp_hidden=mlp_hidden_size(self.C, self.config.mlp_ratio, self.mlp_type),
            mlp_matrices=3 if self.mlp_type == "llama" else 2,
            context_token=self.context_token,
            patch_nums=self.patch_nums,
        )

    def decision_plan(self) -> DecisionPlan:
        """Every decision of the next generation, from configuration and similarity data."""
        off = CacheConfig(enable_attn_cache=False, enable_mlp_cache=False)
        config = self.cache_config if self.use_cache and not self.calibration else off
        return decide_all(config, self.schedule, self.similarity_in_use)

    @property
    def similarity_in_use(self) -> SimilarityTables:
        """What the running generation began with, whatever was set since; else the next one's."""
        return self.similarity if self._similarity_at_start is None else self._similarity_at_start

    @property
    def decides_while_running(self) -> bool:
        """Whether the next generation decides about single modules or tokens while it runs.

        If not, :meth:`decision_plan` holds every decision, and they are about whole modules.
        """
        if self.calibration or not self.use_cache:
            return False
        config = self.cache_config
        measured = not self.similarity_in_use.assumed
        adapts = config.adaptive_threshold and config.caches_anything and measured
        return adapts or not config.decides_whole_modules

    def get_cache_statistics(self) -> dict[str, Any]:
        """What finished generations did since the last reset, JSON-able. Waits for the device.

        Returns:
            ``cache_config`` and ``similarity_stats``, which are in use now, and

            - ``images``: number of images;
            - ``modules``: module calls of one image: ``all``, ``reused`` and ``pruned`` ones;
            - ``stages``: per stage (by token count) and site one image's module calls ``computed``,
              ``reused``, ``stored``, ``not_eligible`` and ``pruned``, and ``reuse_rate``; all
              images' ``multiply_adds_computed``, ``multiply_adds_saved`` and its parts; see
              :class:`SiteCounts`;
            - ``totals``: the same per site over all stages;
            - ``multiply_adds``: ``computed`` and ``saved`` over both sites, and ``saved_by`` what;
            - ``saved_share``: share of the blocks' multiply-adds that was saved, and in
              ``saved_share_by`` the parts by ``guidance``, ``reuse`` and ``pruning``;
            - ``feature_cache_bytes``: size of the stored outputs ``now`` (0 unless a generation
              is running) and at ``peak``;
            - ``key_value_tokens``: tokens in the key/value cache at ``peak``, over rows and layers;
            - ``seconds``: ``stages`` by token count, and ``residual`` for the diffusion head;
            - ``thresholds``: per stage with an adapted threshold ``mean``, ``min`` and ``max`` of
              the ``calibrated`` and ``measured`` similarity and the ``effective`` threshold.
        """
        return {
            "cache_config": self.cache_config.to_dict(),
            "similarity_stats": similarity_stats(self.similarity),
            **self.cache_statistics.to_dict(self._counts),
        }

    def reset_cache_statistics(self) -> None:
        """Forget what was counted and timed."""
        self.cache_statistics.reset()

    # --- one generation -----------------------------------------------------------------------

    def site_cache(
        self, site: str, layer: int, si: int, m_maskgit: MaskIndex | None = None
    ) -> SiteCache:
        """The cache of the running generation as one module sees it, see :class:`SiteCache`."""
        run = self._cache_run
        return SiteCache(run, site, layer, si, run.stored[site], run.tables[site], m_maskgit)

    def running_threshold(self, si: int) -> float:
        """Threshold of stage ``si`` in the generation that is running, see :class:`CacheRun`."""
        return self._cache_run.threshold(si)

    @property
    def generation_counts(self) -> GenerationCounts | None:
        """Counts of the generation that is running; None without one or without statistics."""
        return self._counts

    def _release(self) -> None:
        self.cache_attn: list[torch.Tensor | None] = [None] * self.depth
        self.cache_mlp: list[torch.Tensor | None] = [None] * self.depth
        self._cache_run: CacheRun | None = None
        self._similarity_at_start: SimilarityTables | None = None
        self._counts: GenerationCounts | None = None

    @contextlib.contextmanager
    def _generation_scope(self, bsz: int, timeline: Timeline | None) -> Iterator[Timeline | None]:
        """Set the cache up for one generation; whatever happens, release all its tensors.

        A generation that fails is not in the statistics.
        """
        calibrating = self.calibration
        self._release()  # a copy that was made in the middle of a generation holds part of it
        self._similarity_at_start = self.similarity
        try:
            if self.collect_cache_statistics:
                self._counts = GenerationCounts(self.cache_statistics.shape)
                timeline = timeline or Timeline(self.device)
            if calibrating or (self.use_cache and self.cache_config.changes_anything):
                self._start_run(calibrating)
            yield timeline
            if calibrating:
                self.similarity = self.similarity.including(self._cache_run.tables, bsz)
            if self._counts is not None:
                seconds = partial(GenerationSeconds.of, timeline, len(self.patch_nums))
                self.cache_statistics.add(self._counts, bsz, seconds)
        finally:
            self._release()

    def _start_run(self, calibrating: bool) -> None:
        width = self.schedule.width
        self._cache_run = CacheRun(
            self.cache_config,
            self.schedule,
            self._counts,
            table_is_assumed=self.similarity_in_use.assumed,
            stored={"attn": self.cache_attn, "mlp": self.cache_mlp},
            tables={
                site: SimilarityRecorder(self.depth, width)
                if calibrating
                else self.similarity_in_use.site(site)
                for site in SITES
            },
        )
        if calibrating:
            return
        needs_table = self.cache_config.caches_anything
        if needs_table and self.similarity_in_use.is_empty and not self._warned_empty:
            self._warned_empty = True
            warnings.warn(
                "the similarity table is empty, so reuse saves nothing: calibrate first or load "
                "one",
                stacklevel=6,
            )

    def _guidance_stop(self) -> int | None:
        if self._cache_run is None or self.calibration:
            return None
        return guidance_stop(self.cache_config, self.schedule)

    def _stop_guidance(self, x: torch.Tensor, run: Generation) -> torch.Tensor:
        self._cache_run.stop_guidance()
        return super()._stop_guidance(x, run)

    def run_blocks(
        self, x: torch.Tensor, run: Generation, si: int, m_maskgit: MaskIndex | None = None
    ) -> torch.Tensor:
        """As in the plain model. With caching off, what the blocks compute is counted here."""
        if self._counts is not None and self._cache_run is None:
            rows, tokens = x.shape[:2]
            self._counts.count_uncached(si, rows, tokens)
        return super().run_blocks(x, run, si, m_maskgit)

    def _block_options(self, layer: int) -> dict:
        return {} if self._cache_run is None else {"cache_run": self._cache_run}
