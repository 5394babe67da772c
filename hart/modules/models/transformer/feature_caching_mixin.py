"""The names of feature caching on a model; what is behind them is in ``feature_caching.py``."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from hart.modules.models.transformer.feature_caching import FeatureCaching
from hart.modules.models.transformer.fingerprint import fingerprint_of
from hart.modules.models.transformer.sampling import SamplingTransformer
from hart.modules.networks.basic_hart import mlp_hidden_size
from hart.modules.networks.caching.cache_options import (
    OPTION_NAMES,
    add_cache_arguments,
    resolve_cache_config,
    resolve_use_cache,
)
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.multiply_adds import TransformerShape
from hart.modules.networks.caching.plan import Plan
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity import Table
from hart.modules.networks.caching.similarity_io import (
    LoadedSimilarity,
    SimilarityFileError,
    similarity_file_of,
)
from hart.modules.networks.caching.statistics import CacheStatistics, similarity_stats
from hart.modules.networks.caching.tuned_config import TunedConfig
from hart.utils.hub import is_hub_name
from hart.utils.timing import Timeline


def _of_caching(name: str, doc: str) -> Any:
    """An attribute of the model that is its component's."""

    def get(self) -> Any:
        return getattr(self.caching, name)

    def put(self, value: Any) -> None:
        setattr(self.caching, name, value)

    return property(get, put, doc=doc)


class FeatureCachingMixin(SamplingTransformer):
    """In front of a plain model: its blocks can reuse the previous stage's outputs.

    The plain model is a :class:`StageTransformer` with a sampler; ``block_class`` is its block with
    feature caching. The state dict stays the plain model's, so every checkpoint of it loads.
    Caching is configured by the ``cache_*`` fields of the configuration or
    :meth:`set_cache_config`, and needs similarity data: :meth:`load_similarity_data`, or
    generations with ``calibration`` set.

    Attributes:
        caching: what it knows about caching; the documented names delegate to it.
    """

    caches_features = True

    schedule = _of_caching("schedule", "The stages that it draws.")
    use_cache = _of_caching("use", "False turns caching off without forgetting its configuration.")
    calibration = _of_caching("calibration", "Compute everything and measure.")
    similarity = _of_caching("similarity", "Calibrated similarities of both sites.")
    similarity_path = _of_caching("similarity_path", "The file that they were read from, or None.")
    cache_statistics = _of_caching("statistics", "What was done since the last reset.")
    collect_cache_statistics = _of_caching("collect_statistics", "False counts nothing.")

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        self.caching = FeatureCaching(self.transformer_shape)
        self.use_cache = resolve_use_cache(None, config)
        self.calibration = bool(config.calibration)
        self._install(resolve_cache_config(None, config, self.patch_nums))
        if config.sim_path and Path(config.sim_path).is_file():
            self.caching.load(config.sim_path, None)

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

    def _generation_scope(
        self, bsz: int, timeline: Timeline | None, statistics: CacheStatistics | None
    ):
        return self.caching.generation(bsz, timeline, statistics, self.device)

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

    @property
    def cache_config(self) -> CacheConfig:
        """What may be cached; see :meth:`set_cache_config`."""
        return self.caching.config

    def set_cache_config(self, config: CacheConfig | str) -> None:
        """Use another cache configuration, or a preset by name, from the next image on.

        The ``cache_*`` fields of ``self.config`` follow, so that ``save_pretrained`` keeps it.

        Raises:
            TypeError: neither a CacheConfig nor a name.
            ValueError: unknown preset, or a plan for another model.
        """
        if isinstance(config, str):
            config = preset_config(config, self.patch_nums)
        if not isinstance(config, CacheConfig):
            raise TypeError(f"config must be a CacheConfig or a preset name, got {config!r}")
        self._install(config)
        # A plan is a file of its own: a configuration has no fields for it.
        values = {} if isinstance(config, TunedConfig) else config.to_dict()
        for field, name in OPTION_NAMES.items():
            setattr(self.config, name, values.get(field))

    @property
    def is_cache_enabled(self) -> bool:
        """Whether a configuration that does anything is in use."""
        return self.use_cache and self.cache_config.changes_anything

    def enable_cache(self, config: CacheConfig | str) -> None:
        """As :meth:`set_cache_config`, for a model without a cache, by the rules of ``diffusers``.

        Raises:
            TypeError, ValueError: as there, or caching is enabled already.
        """
        if self.is_cache_enabled:
            raise ValueError(
                f"caching is enabled already: {self.cache_config}; call disable_cache first, or "
                "set_cache_config in the place of enable_cache"
            )
        self.set_cache_config(config)
        self.use_cache = True

    def disable_cache(self) -> None:
        """Forget the cache configuration; warns if caching is not enabled."""
        if not self.is_cache_enabled:
            warnings.warn("caching is not enabled", stacklevel=2)
        self.set_cache_config(CacheConfig())

    def _install(self, config: CacheConfig) -> None:
        self.caching.set_config(config, stacklevel=4)
        for block in self.blocks:
            block.cache_config = config

    def decision_plan(self) -> Plan:
        """Every decision of the next generation, from configuration and similarity data."""
        return self.caching.plan()

    # --- what was done ------------------------------------------------------------------------

    @property
    def cache_attn(self) -> list[torch.Tensor | None]:
        """Per block the attention output that a generation of this thread has stored, or None."""
        return self.caching.stored("attn")

    @property
    def cache_mlp(self) -> list[torch.Tensor | None]:
        """Per block the MLP output that a generation of this thread has stored, or None."""
        return self.caching.stored("mlp")

    def get_cache_statistics(self, statistics: CacheStatistics | None = None) -> dict[str, Any]:
        """What finished generations did since the last reset, JSON-able. Waits for the device.

        Args:
            statistics: where they were counted; None is ``cache_statistics``.

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
        running = self.caching.running
        counts = None if running is None else running.counts
        return {
            "cache_config": self.cache_config.to_dict(),
            "similarity_stats": similarity_stats(self.similarity),
            **(statistics or self.cache_statistics).to_dict(counts),
        }

    def reset_cache_statistics(self) -> None:
        """Forget what was counted and timed."""
        self.cache_statistics.reset()

    # --- similarity data ----------------------------------------------------------------------

    @property
    def cache_similarity_attn(self) -> Table:
        """Similarities of the attention outputs: ``depth`` rows, one column per transition."""
        return self.similarity.attn

    @cache_similarity_attn.setter
    def cache_similarity_attn(self, table: Table) -> None:
        self.caching.replace_table("attn", table)

    @property
    def cache_similarity_mlp(self) -> Table:
        """Similarities of the MLP outputs: ``depth`` rows, one column per transition."""
        return self.similarity.mlp

    @cache_similarity_mlp.setter
    def cache_similarity_mlp(self, table: Table) -> None:
        self.caching.replace_table("mlp", table)

    def clear_similarity_data(self) -> None:
        """Forget the similarity data, so that a calibration starts from nothing."""
        self.caching.clear()

    def weight_fingerprint(self) -> str | None:
        """Identifies the weights, whatever their dtype; None where they cannot be read."""
        return fingerprint_of(self)

    def load_similarity_data(self, path: str | Path) -> LoadedSimilarity:
        """Read similarity data; transitions of another schedule are matched by stage size.

        Warns when the file was measured with other weights.

        Raises:
            OSError: the file cannot be read.
            SimilarityFileError: it is damaged or does not fit this model.
        """
        return self.caching.load(path, self.weight_fingerprint())

    def save_similarity_data(self, path: str | Path | None = None) -> Path:
        """Write the similarity data; the suffix chooses the format (.json, .pt or .pkl).

        Args:
            path: by default ``config.sim_path``, else the file of :func:`similarity_file_of`
                for the checkpoint that the model came from, else in the current folder.
        """
        checkpoint = Path(self.config.name_or_path or ".")
        beside = similarity_file_of(checkpoint if checkpoint.exists() else Path())
        path = Path(path or self.config.sim_path or beside)
        self.caching.save(path, self.weight_fingerprint())
        return path

    # --- checkpoints --------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *model_args, **kwargs):
        """As in the plain model, with the checkpoint's own similarity table.

        That is ``cache_similarity.json`` in a folder, ``var_d16.cache_similarity.json`` beside
        ``var_d16.pth``; one that the configuration names in ``sim_path`` takes its place.

        Warns:
            UserWarning: the table cannot be used (nobody asked for it, so it is ignored), was
                measured with other weights, or lacks transitions of this model.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.load_own_similarity(similarity_file_of(Path(model.config.name_or_path)))
        return loaded

    def load_own_similarity(self, file: Path) -> None:
        """Read a table that belongs to the checkpoint, as ``from_pretrained`` does.

        Does nothing if the model has one from another file, or this one is not there.
        """
        if self.similarity_path is not None or not file.is_file():
            return
        try:
            loaded = self.load_similarity_data(file)
        except SimilarityFileError as error:
            warnings.warn(f"{error}; ignored", stacklevel=4)
        else:
            warn_about_missing(loaded, file)

    def save_pretrained(self, save_directory: str | Path, *args, **kwargs) -> None:
        """As in ``transformers``, with the table as ``cache_similarity.json`` in the folder.

        A model without a measured table removes the file: the folder then holds this model. The
        saved configuration names no other table.
        """
        sim_path, self.config.sim_path = self.config.sim_path, None
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.sim_path = sim_path
        if kwargs.get("is_main_process", True):
            self.save_own_similarity(similarity_file_of(Path(save_directory)))

    def save_own_similarity(self, file: Path) -> None:
        """Write the table to its place beside weights; without a measured one nothing is there."""
        if self.similarity.is_empty or self.similarity.assumed:
            file.unlink(missing_ok=True)
        else:
            self.save_similarity_data(file)


def warn_about_missing(loaded: LoadedSimilarity, path: str | Path) -> None:
    """Warn if a table lacks transitions of the model that read it."""
    if loaded.matched < loaded.total:
        warnings.warn(
            f"{path} has {loaded.matched} of this model's {loaded.total} transitions between "
            "stages; nothing is reused at the others",
            stacklevel=4,
        )
