"""The user's side of feature caching: which stages, which modules, how similar."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from .interpolate import INTERPOLATION_MODES
from .stages import StageSchedule, as_integer, format_stages

SITES = ("attn", "mlp")
"""The modules of a block whose outputs can be reused: attention and feed-forward."""


@dataclass(frozen=True)
class CacheConfig:
    """What feature caching may do. Immutable; equal configurations compare equal.

    More skipped stages and a lower threshold mean more reuse: faster images that depart further
    from those without caching. Whether a module is reused also depends on the calibrated
    similarity table; without one nothing is.

    Args:
        skip_stages: token counts of the stages whose modules may be replaced by the interpolated
            output of the previous stage. ``None`` means none.
        cache_stages: token counts of the stages whose outputs may be kept for the next one.
            A stage can only be skipped if its predecessor is listed here.
        enable_attn_cache: whether attention outputs may be reused.
        enable_mlp_cache: whether feed-forward outputs may be reused.
        threshold: similarity in [0, 1] that a transition must exceed.
        adaptive_threshold: correct the threshold at every skip stage by the similarity measured
            in the first block of the running generation.
        interpolation_mode: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.

    Stages are stored as sorted tuples without duplicates. Stages that a model does not have are
    legal and ignored, see :meth:`resolve`.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a stage is not a positive perfect square, the threshold is outside [0, 1] or
            NaN, or the mode is unknown.
    """

    skip_stages: tuple[int, ...] | Iterable[int] | None = None
    cache_stages: tuple[int, ...] | Iterable[int] | None = None
    enable_attn_cache: bool = True
    enable_mlp_cache: bool = True
    threshold: float = 0.7
    adaptive_threshold: bool = False
    interpolation_mode: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("skip_stages", "cache_stages"):
            object.__setattr__(self, name, _stage_tuple(getattr(self, name), name))
        object.__setattr__(self, "threshold", _unit_interval(self.threshold, "threshold"))
        for name in ("enable_attn_cache", "enable_mlp_cache", "adaptive_threshold"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.interpolation_mode not in INTERPOLATION_MODES:
            raise ValueError(
                f"interpolation_mode must be one of {', '.join(INTERPOLATION_MODES)}; "
                f"got {self.interpolation_mode!r}"
            )

    def is_enabled(self, site: str) -> bool:
        """Whether outputs of ``site`` (``"attn"`` or ``"mlp"``) may be reused."""
        if site not in SITES:
            raise ValueError(f"site must be one of {', '.join(SITES)}; got {site!r}")
        return self.enable_attn_cache if site == "attn" else self.enable_mlp_cache

    @property
    def enabled_sites(self) -> tuple[str, ...]:
        return tuple(site for site in SITES if self.is_enabled(site))

    @property
    def caches_anything(self) -> bool:
        """Whether some model with some table could reuse a module under this configuration."""
        return bool(self.enabled_sites and self.skip_stages and self.cache_stages)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values; the inverse of :meth:`from_dict`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
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
            )
        return cls(**values)

    def __str__(self) -> str:
        if not self.caches_anything:
            return "CacheConfig(off)"
        mode = " adaptive" if self.adaptive_threshold else ""
        return (
            f"CacheConfig(skip {format_stages(self.skip_stages)} "
            f"from {format_stages(self.cache_stages)}, "
            f"{'+'.join(self.enabled_sites)}, threshold {self.threshold:g}{mode}, "
            f"{self.interpolation_mode})"
        )

    def resolve(self, schedule: StageSchedule) -> ResolvedStages:
        """Compare the configured stages with those that the model has."""
        has = set(schedule.lengths)
        skip = tuple(length for length in self.skip_stages if length in has)
        cache = tuple(length for length in self.cache_stages if length in has)
        fed = {after for before, after in schedule.transitions if before in cache}
        return ResolvedStages(
            skip_stages=skip,
            cache_stages=cache,
            unknown_stages=tuple(sorted({*self.skip_stages, *self.cache_stages} - has)),
            unfed_stages=tuple(length for length in skip if length not in fed),
        )

    def warn_about(self, schedule: StageSchedule, stacklevel: int = 2) -> None:
        """Warn about stages that cannot do what the configuration says, one line per kind.

        Meant to be called once, when a model receives the configuration. ``stacklevel`` counts as
        in ``warnings.warn``: 2 attributes the warning to the caller.
        """
        if not self.enabled_sites:
            return
        resolved = self.resolve(schedule)
        if resolved.unknown_stages:
            warnings.warn(
                f"cache stages {format_stages(resolved.unknown_stages)} are not stages of this "
                f"model and are ignored; its stages are {format_stages(schedule.lengths)}",
                stacklevel=stacklevel,
            )
        if resolved.unfed_stages:
            warnings.warn(
                f"skip stages {format_stages(resolved.unfed_stages)} will be computed: "
                "the stage before each of them is not in cache_stages",
                stacklevel=stacklevel,
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


def _stage_tuple(stages: object, name: str) -> tuple[int, ...]:
    if stages is None:
        return ()
    if isinstance(stages, str | bytes | Mapping) or not isinstance(stages, Iterable):
        raise TypeError(f"{name} must be a collection of token counts, got {stages!r}")
    lengths = sorted({as_integer(stage, name) for stage in stages})
    for length in lengths:
        if length < 1 or math.isqrt(length) ** 2 != length:
            raise ValueError(
                f"{name} must contain token counts of square maps (1, 4, 9, ...), got {length}"
            )
    return tuple(lengths)


def _unit_interval(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 <= value <= 1.0:  # also refuses NaN, which compares false
        raise ValueError(f"{name} must be within [0, 1], got {value}")
    return float(value)
