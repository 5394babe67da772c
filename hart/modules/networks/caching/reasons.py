"""Why a configuration reuses nothing, in words."""

from __future__ import annotations

from collections.abc import Sequence

from .config import CacheConfig
from .similarity import SimilarityTables
from .stages import StageSchedule, format_stages


def explain_no_reuse(
    config: CacheConfig, schedule: StageSchedule, tables: SimilarityTables
) -> tuple[str, ...]:
    """Say why a configuration reuses nothing, one sentence per cause, the first cause first."""
    if not config.enabled_sites:
        return ("caching is disabled for attention and MLP",)
    if not config.skip_stages:
        return ("no skip stages are configured",)
    resolved = config.resolve(schedule)
    if not resolved.skip_stages:
        return (
            f"none of the skip stages {format_stages(config.skip_stages)} is a stage of this model "
            f"({format_stages(schedule.lengths)})",
        )
    open_stages = [n for n in resolved.skip_stages if n not in resolved.unfed_stages]
    if not open_stages:
        return (f"the stage before {format_stages(resolved.skip_stages)} is not in cache_stages",)
    if tables.is_empty:
        return ("the similarity table is empty: calibrate first or load a table",)
    return tuple(
        _explain_site(config, schedule, site, tables, open_stages) for site in config.enabled_sites
    )


def _explain_site(
    config: CacheConfig,
    schedule: StageSchedule,
    site: str,
    tables: SimilarityTables,
    open_stages: Sequence[int],
) -> str:
    candidates = [
        (row[schedule.column(schedule.index_of(length))], length)
        for layer, row in enumerate(tables.site(site))
        if layer not in config.computed_layers(site)
        for length in open_stages
    ]
    if not candidates:
        return f"{site}: every block is always computed"
    best, length = max(candidates)
    return (
        f"{site}: every similarity is at or below the threshold; "
        f"best was {best:.2f} at stage {length}, threshold {config.threshold:g}"
    )
