"""The user's side of feature caching: which stages, which modules, how similar."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, TypeAlias

from hart.utils.names import suggestion
from hart.utils.options import check_options, document_options, option

from .stages import StageSchedule, format_stages
from .validation import FLAG, LAYERS, PRUNED, SHARE, STAGE, STAGES, PruneStages, choice

SITES = ("attn", "mlp")
"""The modules of a block whose outputs can be reused: attention and feed-forward."""

INTERPOLATION_MODES = ("bilinear", "nearest", "bicubic")
"""How a stored output is resized."""

Collected: TypeAlias = Any
"""Any collection when it is given, a sorted tuple once the configuration is made."""

MODE = choice(*INTERPOLATION_MODES)


@document_options
@dataclass(frozen=True)
class CacheConfig:
    """What feature caching may do. Immutable; equal configurations compare equal.

    More skipped stages and a lower threshold mean more reuse: faster images that depart further
    from those without caching. Whether a module is reused also depends on the calibrated
    similarity table; without one nothing is.

    Pruning is cached token pruning (FastVAR, arXiv 2503.23367): the tokens nearest to the mean of
    all are left out of the enabled modules and take the module's output at the source stage,
    resized; a module that is reused at such a stage is reused whole. As in VAR and FastVAR, tokens
    whose attention is not computed add no keys and values. Blocks are best kept from reuse where
    similarity does not tell how much later ones depend on them.

    Stages are stored as sorted tuples without duplicates, ``prune_stages`` as a sorted tuple of
    pairs. Stages that a model does not have are legal and ignored, see :meth:`resolve`; so are
    blocks.

    Args:
        <options>

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field has a value that is not allowed, or options contradict each other.
    """

    skip_stages: Collected = option(
        None, STAGES, "stages that may reuse the outputs of the stage before", "--cache-skip-stages"
    )
    cache_stages: Collected = option(
        None, STAGES, "stages whose outputs are kept for the next stage", "--cache-cache-stages"
    )
    enable_attn_cache: bool = option(
        True, FLAG, "reuse attention outputs", "--cache-enable-attn", "--cache-disable-attn"
    )
    enable_mlp_cache: bool = option(
        True, FLAG, "reuse MLP outputs", "--cache-enable-mlp", "--cache-disable-mlp"
    )
    threshold: float = option(
        0.7, SHARE, "similarity that a transition must exceed to be reused", "--cache-threshold"
    )
    adaptive_threshold: bool = option(
        False,
        FLAG,
        "stricter for images that change more between stages than the calibration images, looser "
        "for calmer ones; one threshold per batch",
        *("--cache-adaptive-threshold", "--no-cache-adaptive-threshold"),
    )
    interpolation_mode: str = option(
        "bilinear", MODE, "how a kept output is resized", "--cache-interpolation-mode"
    )
    _: KW_ONLY
    prune_stages: Collected = option(
        (),
        PRUNED,
        "stages, and the share of their tokens that is not computed but takes the source stage's "
        "outputs",
        "--cache-prune-stages",
    )
    prune_source: int | None = option(
        None,
        STAGE,
        "stage whose outputs left-out tokens take; by default that before the first pruned one",
        "--cache-prune-source",
    )
    guidance_stop_stage: int | None = option(
        None,
        STAGE,
        "first stage without guidance: only the half of the batch with text is computed",
        "--cache-guidance-stop-stage",
    )
    compute_attn_layers: Collected = option(
        (), LAYERS, "blocks whose attention output is never reused", "--cache-compute-attn-layers"
    )
    compute_mlp_layers: Collected = option(
        (), LAYERS, "blocks whose MLP output is never reused", "--cache-compute-mlp-layers"
    )

    def __post_init__(self) -> None:
        check_options(self)
        self._check_pruning()

    def _check_pruning(self) -> None:
        if not self.prune_stages:
            if self.prune_source is not None:
                raise ValueError(
                    f"prune_source is {self.prune_source}, but prune_stages names no stage"
                )
            return
        if not self.enabled_sites:
            raise ValueError(
                "prune_stages needs enable_attn_cache or enable_mlp_cache: both are False"
            )
        pruned = [length for length, ratio in self.prune_stages if ratio > 0]
        if self.prune_source is not None and pruned and self.prune_source >= pruned[0]:
            raise ValueError(
                f"prune_source must be a stage before the first of prune_stages, {pruned[0]}; "
                f"got {self.prune_source}"
            )

    def is_enabled(self, site: str) -> bool:
        """Whether outputs of ``site`` (``"attn"`` or ``"mlp"``) may be reused."""
        if site not in SITES:
            raise ValueError(f"site must be one of {', '.join(SITES)}; got {site!r}")
        return self.enable_attn_cache if site == "attn" else self.enable_mlp_cache

    def computed_layers(self, site: str) -> tuple[int, ...]:
        """Indices of the blocks whose output of ``site`` is never reused."""
        return self.compute_attn_layers if site == "attn" else self.compute_mlp_layers

    @property
    def enabled_sites(self) -> tuple[str, ...]:
        return tuple(site for site in SITES if self.is_enabled(site))

    @property
    def caches_anything(self) -> bool:
        """Whether some model with some table could reuse a module under this configuration."""
        return bool(self.enabled_sites and self.skip_stages and self.cache_stages)

    @property
    def prunes_anything(self) -> bool:
        """Whether some model would leave out tokens under this configuration."""
        return any(ratio > 0 for _, ratio in self.prune_stages)

    @property
    def changes_anything(self) -> bool:
        """Whether some model would generate differently than without this configuration."""
        return self.caches_anything or self.prunes_anything or self.guidance_stop_stage is not None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values; the inverse of :meth:`from_dict`.

        Keyword-only fields are left out where they have their default.
        """
        values = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if not field.kw_only or getattr(self, field.name) != field.default
        }
        if "prune_stages" in values:
            values["prune_stages"] = {str(n): ratio for n, ratio in self.prune_stages}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CacheConfig:
        """Build from a mapping of field names; missing fields take their defaults.

        Raises:
            ValueError: a key is not a field, or a value is not allowed.
            TypeError: a value has the wrong type.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(key) for key in values if key not in known)
        if unknown:
            raise ValueError(
                f"unknown cache option {', '.join(unknown)}; known are {', '.join(known)}"
                f"{suggestion(unknown[0], known)}"
            )
        return cls(**values)

    def __str__(self) -> str:
        parts = []
        if self.caches_anything:
            mode = " adaptive" if self.adaptive_threshold else ""
            parts.append(
                f"skip {format_stages(self.skip_stages)} from {format_stages(self.cache_stages)}, "
                f"{'+'.join(self.enabled_sites)}, threshold {self.threshold:g}{mode}, "
                f"{self.interpolation_mode}"
            )
            for site in self.enabled_sites:
                layers = self.computed_layers(site)
                if layers:
                    parts.append(f"{site} of layer {', '.join(map(str, layers))} computed")
        if self.prunes_anything:
            ratios = ", ".join(f"{n}:{ratio:g}" for n, ratio in self.prune_stages)
            source = f" from {self.prune_source}" if self.prune_source else ""
            sites = "" if len(self.enabled_sites) == len(SITES) else f" {self.enabled_sites[0]}"
            parts.append(f"prune{sites} {ratios}{source}")
        if self.guidance_stop_stage is not None:
            parts.append(f"no guidance from {self.guidance_stop_stage}")
        return f"CacheConfig({'; '.join(parts) or 'off'})"

    def resolve(self, schedule: StageSchedule) -> ResolvedStages:
        """Compare the configured stages with those that the model has."""
        has = set(schedule.lengths)
        skip = tuple(length for length in self.skip_stages if length in has)
        cache = tuple(length for length in self.cache_stages if length in has)
        fed = {after for before, after in schedule.transitions if before in cache}
        prune = tuple(pair for pair in self.prune_stages if pair[0] in has)
        single = {self.prune_source, self.guidance_stop_stage} - {None}
        pruned = {length for length, _ in self.prune_stages}
        named = {*self.skip_stages, *self.cache_stages, *pruned, *single}
        return ResolvedStages(
            skip_stages=skip,
            cache_stages=cache,
            unknown_stages=tuple(sorted(named - has)),
            unfed_stages=tuple(length for length in skip if length not in fed),
            prune_stages=prune,
            prune_source=self._source(schedule, [length for length, ratio in prune if ratio > 0]),
        )

    def _source(self, schedule: StageSchedule, pruned: list[int]) -> int | None:
        """Token count of the stage whose outputs stand in for those of left-out tokens."""
        if not pruned:
            return None
        if self.prune_source is not None:
            return self.prune_source if self.prune_source in schedule.lengths else None
        first = schedule.index_of(pruned[0])
        return schedule.lengths[first - 1] if first else None

    def warn_about(
        self, schedule: StageSchedule, depth: int | None = None, stacklevel: int = 2
    ) -> None:
        """Warn about stages that cannot do what the configuration says, one line per kind.

        Likewise about blocks beyond ``depth``. Called once, when a model receives the
        configuration. ``stacklevel`` counts as in ``warnings.warn``: 2 means the caller.
        """
        if self.enabled_sites or self.guidance_stop_stage is not None:
            for line in self._complaints(schedule, depth):
                warnings.warn(line, stacklevel=stacklevel)

    def _complaints(self, schedule: StageSchedule, depth: int | None) -> Iterator[str]:
        resolved = self.resolve(schedule)
        if resolved.unknown_stages:
            yield (
                f"cache stages {format_stages(resolved.unknown_stages)} are not stages of this "
                f"model and are ignored; its stages are {format_stages(schedule.lengths)}"
            )
        if self.enabled_sites and resolved.unfed_stages:
            yield (
                f"skip stages {format_stages(resolved.unfed_stages)} will be computed: "
                "the stage before each of them is not in cache_stages"
            )
        unsourced = [length for length, ratio in resolved.prune_stages if ratio > 0]
        if unsourced and resolved.prune_source is None:
            yield (
                f"prune stages {format_stages(unsourced)} will be computed for all tokens: there "
                "is no stage to take the outputs of the left-out tokens from"
            )
        if depth is not None:
            named = {*self.compute_attn_layers, *self.compute_mlp_layers}
            missing = ", ".join(str(layer) for layer in sorted(named) if layer >= depth)
            if missing:
                yield (
                    f"blocks {missing} of compute_attn_layers or compute_mlp_layers are ignored; "
                    f"this model has blocks 0 to {depth - 1}"
                )


@dataclass(frozen=True)
class ResolvedStages:
    """A configuration's stages as one model sees them; all tuples of token counts."""

    skip_stages: tuple[int, ...]
    """Skip stages that the model has."""
    cache_stages: tuple[int, ...]
    """Cache stages that the model has."""
    unknown_stages: tuple[int, ...]
    """Stages of either list that the model does not have."""
    unfed_stages: tuple[int, ...]
    """Skip stages of the model that have no stored predecessor and are therefore computed."""
    prune_stages: PruneStages = ()
    """Pruned stages of the model with their ratios."""
    prune_source: int | None = None
    """The stage that left-out tokens take their outputs from; None: nothing is pruned."""
