"""Measuring similarities and averaging them over images."""

from __future__ import annotations

import pytest
import torch

from hart.modules.networks.caching.similarity import (
    SimilarityRecorder,
    SimilarityTables,
    cosine_similarity,
    validate_table,
)
from hart.modules.networks.caching.stages import StageSchedule

SCHEDULE = StageSchedule((1, 2, 3))


def table(value: float, depth: int = 2, width: int = 15) -> list[list[float]]:
    return [[value] * width for _ in range(depth)]


def test_cosine_is_over_channels_then_the_mean_over_tokens_and_batch():
    a = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[3.0, 4.0], [0.0, 2.0]]])
    b = torch.tensor([[[5.0, 0.0], [0.0, 1.0]], [[4.0, 3.0], [0.0, -1.0]]])
    # cosines 1, 0, 24/25, -1; flattening first would weight long vectors more
    assert cosine_similarity(a, b).item() == pytest.approx((1 + 0 + 0.96 - 1) / 4)


def test_half_inputs_are_compared_in_float32():
    a = torch.full((1, 4, 512), 300.0, dtype=torch.float16)  # sum of squares overflows float16
    similarity = cosine_similarity(a, a)
    assert similarity.dtype == torch.float32
    assert similarity.shape == ()
    assert similarity.item() == pytest.approx(1.0, abs=1e-6)


def test_identical_maps_never_exceed_one_by_rounding():
    a = torch.randn(3, 50, 7, generator=torch.Generator().manual_seed(1))
    assert -1.0 <= cosine_similarity(a, -a).item() <= cosine_similarity(a, a).item() <= 1.0


def test_different_shapes_are_not_broadcast():
    with pytest.raises(ValueError, match="shapes"):
        cosine_similarity(torch.ones(1, 4, 2), torch.ones(1, 1, 2))


def test_the_recorder_looks_like_a_table():
    recorder = SimilarityRecorder(2, 15)
    assert isinstance(recorder, list)
    assert recorder == table(0.0)


def test_chunks_of_a_stage_are_weighted_by_their_tokens():
    recorder = SimilarityRecorder(2, 15)
    recorder.record(1, 5, torch.tensor(1.0), weight=9)
    recorder.record(1, 5, torch.tensor(0.5), weight=23)
    recorder.record(0, 3, torch.tensor(-0.25), weight=4)
    measured = recorder.finish()
    assert measured[1][5] == pytest.approx((9 + 0.5 * 23) / 32)
    assert measured[0][3] == -0.25
    assert recorder == measured
    assert all(type(value) is float for row in measured for value in row)
    assert sum(value != 0.0 for row in measured for value in row) == 2


def test_the_rows_stay_zero_until_finish_so_that_recording_does_not_synchronise():
    class Unreadable(torch.Tensor):
        def item(self):
            raise AssertionError("recording read a value from the device")

        __float__ = tolist = item

    recorder = SimilarityRecorder(1, 15)
    recorder.record(0, 2, torch.tensor(0.5).as_subclass(Unreadable), weight=3)
    assert recorder == table(0.0, depth=1)


def test_the_result_of_finish_is_a_plain_copy():
    recorder = SimilarityRecorder(1, 15)
    measured = recorder.finish()
    measured[0][0] = 1.0
    assert type(measured) is list
    assert recorder[0][0] == 0.0


def test_running_mean_over_single_images():
    tables = SimilarityTables.empty(2, SCHEDULE)
    for value in (0.9, 0.6, 0.3):
        tables.merge(table(value), table(value / 3))
    assert tables.images == 3
    assert tables.attn[1][4] == pytest.approx(0.6)
    assert tables.mlp[0][0] == pytest.approx(0.2)  # VAR's fork advanced n for attention only


def test_a_batch_counts_as_its_number_of_images():
    tables = SimilarityTables.empty(2, SCHEDULE)
    tables.merge(table(0.9), table(0.9), images=1)
    tables.merge(table(0.5), table(0.5), images=3)
    assert tables.images == 4
    assert tables.attn[0][0] == tables.mlp[1][14] == pytest.approx((0.5 * 3 + 0.9) / 4)


def test_transitions_that_were_not_reached_do_not_pull_the_mean_to_zero():
    tables = SimilarityTables.empty(1, SCHEDULE)
    tables.merge([[0.8, 0.0] + [0.0] * 13], table(0.5, depth=1))
    tables.merge([[0.0, 0.6] + [0.0] * 13], table(0.5, depth=1))
    assert tables.attn[0][:3] == [0.8, 0.6, 0.0]


def test_averages_of_one_stay_within_the_allowed_range():
    tables = SimilarityTables.empty(1, SCHEDULE)
    for images in (3, 7, 11):
        tables.merge(table(1.0, 1), table(-1.0, 1), images)
    tables.validate(1, SCHEDULE)


@pytest.mark.parametrize("bad", [table(0.5, depth=1), table(0.5, width=14), table(float("nan"))])
def test_a_bad_measurement_leaves_the_tables_unchanged(bad):
    tables = SimilarityTables.empty(2, SCHEDULE)
    with pytest.raises(ValueError, match="measured mlp table"):
        tables.merge(table(0.5), bad)
    assert tables.is_empty
    assert tables.images == 0
    with pytest.raises(ValueError, match="images"):
        tables.merge(table(0.5), table(0.5), images=0)


def test_empty_tables_have_independent_rows():
    tables = SimilarityTables.empty(2, SCHEDULE)
    assert tables.is_empty
    assert tables.depth == 2
    tables.attn[0][0] = 0.5
    assert not tables.is_empty
    assert tables.attn[1][0] == tables.mlp[0][0] == 0.0
    assert tables.site("attn") is tables.attn
    assert tables.site("mlp") is tables.mlp
    with pytest.raises(ValueError, match="ffn"):
        tables.site("ffn")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (table(0.0, depth=3), "expected 2 rows .blocks., found 3"),
        (table(0.0, width=9), "row 0: expected 15 columns, found 9"),
        ("text", "found a str"),
        ([[0.0] * 15, 0.5], "row 1: expected 15 columns, found a float"),
        (table(float("inf")), "row 0, column 0: .* found inf"),
        (table(1.5), "found 1.5"),
        (table(10**400), "found a huge integer"),
        ([[0.0] * 15, [0.0] * 14 + [True]], "row 1, column 14: .* found True"),
        ([[0.0] * 15, [0.0] * 14 + [None]], "found a NoneType"),
        ([[0.0] * 15, [0.0] * 14 + ["0.5"]], "found '0.5'"),
    ],
)
def test_validation_says_where_and_what(bad, message):
    with pytest.raises(ValueError, match=f"sims.*{message}"):
        validate_table(bad, 2, 15, "sims")
