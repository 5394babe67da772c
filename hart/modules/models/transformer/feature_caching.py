"""Feature caching of a whole model: its configuration, tables, statistics and state."""

from __future__ import annotations

import argparse
import contextlib
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from hart.modules.models.transformer.generation_state import GenerationSeconds
from hart.modules.models.transformer.saved_similarity import SavedSimilarityMixin
from hart.modules.networks.basic_hart import mlp_hidden_size
from hart.modules.networks.caching.cache_options import (
    OPTION_NAMES,
    add_cache_arguments,
    resolve_cache_config,
    resolve_use_cache,
)
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.generation_cache import GenerationCache
from hart.modules.networks.caching.generation_counts import GenerationCounts
from hart.modules.networks.caching.multiply_adds import TransformerShape
from hart.modules.networks.caching.numbers import plain_list
from hart.modules.networks.caching.plan import Plan, decide_all, module_of
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity import SimilarityRecorder, SimilarityTables, Table
from hart.modules.networks.caching.similarity_io import load_similarity
from hart.modules.networks.caching.stages import StageSchedule
from hart.modules.networks.caching.statistics import CacheStatistics, similarity_stats
from hart.utils.hub import is_hub_name
from hart.utils.timing import Timeline

_running: ContextVar[tuple[nn.Module, GenerationCache | None] | None] = ContextVar(
    "running generation", default=None
)
_finishing = threading.Lock()


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
        """
        if isinstance(config, str):
            config = preset_config(config, self.patch_nums)
        if not isinstance(config, CacheConfig):
            raise TypeError(f"config must be a CacheConfig or a preset name, got {config!r}")
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

    def decision_plan(self) -> Plan:
        """Every decision of the next generation, from configuration and similarity data."""
        config = self.cache_config
        if self.calibration or not self.use_cache:
            config = CacheConfig(
                enable_attn_cache=False,
                enable_mlp_cache=False,
                interpolation_mode=config.interpolation_mode,
            )
        return decide_all(config, self.schedule, self.similarity)

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
            **self.cache_statistics.to_dict(self._running_cache and self._running_cache.counts),
        }

    def reset_cache_statistics(self) -> None:
        """Forget what was counted and timed."""
        self.cache_statistics.reset()

    # --- one generation -----------------------------------------------------------------------

    @property
    def cache_attn(self) -> list[torch.Tensor | None]:
        """Per block the attention output that a generation of this thread has stored, or None."""
        return self._stored("attn")

    @property
    def cache_mlp(self) -> list[torch.Tensor | None]:
        """Per block the MLP output that a generation of this thread has stored, or None."""
        return self._stored("mlp")

    def _stored(self, site: str) -> list[torch.Tensor | None]:
        cache = self._running_cache
        if cache is None:
            return [None] * self.depth
        return [cache.store.stored(module_of(layer, site)) for layer in range(self.depth)]

    @property
    def _running_cache(self) -> GenerationCache | None:
        """Of the generation that this thread is in the middle of, if it is one on this model."""
        model, cache = _running.get() or (None, None)
        return cache if model is self else None

    @contextlib.contextmanager
    def _generation_scope(
        self, bsz: int, timeline: Timeline | None
    ) -> Iterator[tuple[Timeline | None, GenerationCache | None]]:
        """The cache of one generation, and what is done with its counts and measurements.

        A generation that fails is not in the statistics.
        """
        recorders = None
        if self.calibration:
            width = self.schedule.width
            recorders = {site: SimilarityRecorder(self.depth, width) for site in SITES}
        counts = GenerationCounts(self.transformer_shape) if self.collect_cache_statistics else None
        if counts is not None:
            timeline = timeline or Timeline(self.device)
        plan = self.decision_plan()
        cache = None
        if recorders or plan.config.changes_anything or counts is not None:
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
            if counts is not None:
                seconds = partial(GenerationSeconds.of, timeline, len(self.patch_nums))
                self.cache_statistics.add(counts, bsz, seconds)

    def _warn_if_empty(self, config: CacheConfig) -> None:
        if config.caches_anything and self.similarity.is_empty and not self._warned_empty:
            self._warned_empty = True
            warnings.warn(
                "the similarity table is empty, so reuse saves nothing: calibrate first or load "
                "one",
                stacklevel=6,
            )
