"""Merging tables: exact, in any order, and only what belongs together."""

from __future__ import annotations

import dataclasses
import random

import pytest

from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_formats import Provenance
from hart.modules.networks.caching.similarity_io import StoredSimilarity
from hart.modules.networks.caching.similarity_merge import merge_similarity
from hart.modules.networks.caching.stages import StageSchedule

from .similarity_files import DEPTH, HART_1024, HART_SHORT, VAR_256, filled

Measurement = list[list[float]]


def measurements(count: int, seed: int) -> list[tuple[Measurement, Measurement]]:
    """Random tables of both sites, as single images would give them."""
    draw = random.Random(seed)

    def table() -> Measurement:
        rows = SimilarityTables.empty(DEPTH, HART_1024).attn
        for row in rows:
            for column in HART_1024.columns:
                row[column] = draw.uniform(-1, 1)
        return rows

    return [(table(), table()) for _ in range(count)]


def calibrated(images: list[tuple[Measurement, Measurement]]) -> SimilarityTables:
    tables = SimilarityTables.empty(DEPTH, HART_1024)
    for attn, mlp in images:
        tables.merge(attn, mlp)
    return tables


def stored(
    tables: SimilarityTables, fingerprint: str | None = "ab", schedule: StageSchedule = HART_1024
) -> StoredSimilarity:
    return StoredSimilarity(
        tables, Provenance(schedule.patch_nums, images=tables.images, fingerprint=fingerprint)
    )


def assert_close(found: SimilarityTables, expected: SimilarityTables) -> None:
    for site in ("attn", "mlp"):
        for found_row, expected_row in zip(found.site(site), expected.site(site), strict=True):
            assert found_row == pytest.approx(expected_row, abs=1e-12)


def test_merging_parts_of_a_calibration_equals_the_whole():
    images = measurements(7, seed=1)
    parts = {
        "a": stored(calibrated(images[:1])),
        "b": stored(calibrated(images[1:4])),
        "c": stored(calibrated(images[4:])),
    }
    merged = merge_similarity(parts)
    assert merged.tables.images == merged.provenance.images == 7
    assert merged.provenance.fingerprint == "ab"
    assert merged.provenance.extra["merged"] == [
        {"file": "a", "images": 1},
        {"file": "b", "images": 3},
        {"file": "c", "images": 3},
    ]
    assert_close(merged.tables, calibrated(images))
    assert_close(merge_similarity(dict(reversed(parts.items()))).tables, merged.tables)


def test_a_transition_that_one_part_did_not_measure_keeps_the_others_mean():
    first, second, third = (calibrated(measurements(n, seed=n)) for n in (3, 2, 1))
    first.attn[0][0] = 0.0
    second.attn[0][0], third.attn[0][0] = 0.3, 0.9
    merged = merge_similarity({"1": stored(first), "2": stored(second), "3": stored(third)})
    assert merged.tables.attn[0][0] == pytest.approx((0.3 * 2 + 0.9) / 3)  # not over 6 images
    assert merged.tables.attn[0][4] == 0.0  # the column that no stage has


def test_a_merge_of_ones_is_still_a_similarity():
    tables = filled(HART_1024)
    tables.attn = [[1.0] * 15 for _ in range(DEPTH)]
    tables.images = 3
    parts = {str(n): stored(dataclasses.replace(tables, images=n)) for n in (3, 7, 11)}
    merge_similarity(parts).tables.validate(DEPTH, HART_1024)


def test_different_stages_are_refused_with_files_and_values():
    parts = {
        "a.json": stored(filled(HART_1024)),
        "b.json": stored(filled(HART_SHORT), schedule=HART_SHORT),
    }
    with pytest.raises(ValueError, match=r"different stages: a.json has .*4096.*b.json has .*81\)"):
        merge_similarity(parts)


def test_different_depths_are_refused_with_files_and_values():
    deep = filled(HART_1024)
    deep.attn, deep.mlp = deep.attn * 2, deep.mlp * 2
    with pytest.raises(ValueError, match=r"different depth: a\.json has 2, b\.json has 4"):
        merge_similarity({"a.json": stored(filled(HART_1024)), "b.json": stored(deep)})


def test_different_checkpoints_are_refused_with_files_and_values():
    parts = {
        "a.json": stored(filled(HART_1024), None),
        "b.json": stored(filled(HART_1024), "ab"),
        "c.json": stored(filled(HART_1024), "cd"),
    }
    with pytest.raises(ValueError, match=r"fingerprint.*: b.json has ab, c.json has cd"):
        merge_similarity(parts)


def test_a_merge_with_an_unknown_checkpoint_claims_none():
    parts = {
        "a": stored(filled(VAR_256), None, VAR_256),
        "b": stored(filled(VAR_256), "x", VAR_256),
    }
    assert merge_similarity(parts).provenance.fingerprint is None


def test_an_unknown_number_of_images_and_no_parts_are_refused():
    with pytest.raises(ValueError, match=r"b\.pt does not say how many images"):
        merge_similarity(
            {"a.json": stored(filled(HART_1024)), "b.pt": stored(filled(HART_1024, images=0))}
        )
    with pytest.raises(ValueError, match="at least one"):
        merge_similarity({})
