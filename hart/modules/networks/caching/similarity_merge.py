"""Several similarity tables averaged into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .config import SITES
from .similarity import SimilarityTables, Table
from .similarity_formats import Provenance
from .similarity_io import StoredSimilarity


def merge_similarity(parts: Mapping[str, StoredSimilarity]) -> StoredSimilarity:
    """Average tables as if they had been calibrated in one go on the images of all.

    Every entry is the mean over the tables that measured it (0 means not measured), weighted by
    their numbers of images, so the order does not matter.

    Args:
        parts: name for messages -> table; their images must differ, which cannot be checked.

    Returns:
        The table. It has a fingerprint only if all parts have one.

    Raises:
        ValueError: no parts, a part with an unknown number of images, or parts of different
            schedules, depths or checkpoints; the message names them and their values.
    """
    if not parts:
        raise ValueError("expected at least one similarity table")
    for name, part in parts.items():
        if part.tables.images < 1:
            raise ValueError(f"{name} does not say how many images it averages over")
    _require_equal(parts, "stages", lambda part: part.schedule.lengths)
    _require_equal(parts, "depth", lambda part: part.tables.depth)
    _require_equal(parts, "fingerprint of the measured weights", _fingerprint)

    stored = list(parts.values())
    weights = [part.tables.images for part in stored]
    attn, mlp = (_mean([part.tables.site(site) for part in stored], weights) for site in SITES)
    fingerprints = {_fingerprint(part) for part in stored}
    provenance = Provenance(
        stored[0].provenance.patch_nums,
        images=sum(weights),
        fingerprint=fingerprints.pop() if len(fingerprints) == 1 else None,
        extra={
            "merged": [{"file": name, "images": n} for name, n in zip(parts, weights, strict=True)]
        },
    )
    return StoredSimilarity(SimilarityTables(attn, mlp, sum(weights)), provenance)


def _fingerprint(part: StoredSimilarity) -> str | None:
    return part.provenance.fingerprint


def _require_equal(
    parts: Mapping[str, StoredSimilarity],
    what: str,
    value_of: Callable[[StoredSimilarity], object],
) -> None:
    """Compare each part with the first one that says; None means that a part does not say."""
    first: tuple[str, object] | None = None
    for name, part in parts.items():
        value = value_of(part)
        if value is None:
            continue
        if first is None:
            first = (name, value)
        elif value != first[1]:
            raise ValueError(f"different {what}: {first[0]} has {first[1]}, {name} has {value}")


def _mean(tables: Sequence[Table], weights: Sequence[int]) -> Table:
    return [
        [_entry(values, weights) for values in zip(*rows, strict=True)]
        for rows in zip(*tables, strict=True)
    ]


def _entry(values: Sequence[float], weights: Sequence[int]) -> float:
    measured = [(value, n) for value, n in zip(values, weights, strict=True) if value != 0.0]
    if not measured:
        return 0.0
    mean = sum(value * n for value, n in measured) / sum(n for _, n in measured)
    return min(1.0, max(-1.0, mean))  # a mean of ones can round to more
