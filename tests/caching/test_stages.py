"""Stage numbering: which table column belongs to which transition."""

from __future__ import annotations

import pytest

from hart.modules.networks.caching.stages import (
    TABLE_WIDTH,
    StageSchedule,
    length2iteration,
    next_patch_size,
)

HART_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
VAR_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def test_the_public_mapping_is_the_documented_one():
    assert length2iteration == {
        1: 0, 4: 1, 9: 2, 16: 3, 25: 4, 49: 6, 81: 7, 144: 8, 256: 9, 441: 10, 729: 11,
        1296: 12, 2304: 13, 4096: 14,
    }  # fmt: skip
    assert tuple(length2iteration) == StageSchedule(HART_1024).lengths


def test_next_patch_size_skips_the_missing_6x6_map_and_ends_at_the_last_stage():
    assert next_patch_size[25] == 49
    assert next_patch_size[1] == 4
    assert next_patch_size[2304] == 4096
    assert 4096 not in next_patch_size
    assert 36 not in next_patch_size


def test_the_column_is_that_of_the_later_stage_also_across_the_gap():
    schedule = StageSchedule(HART_1024)
    into_49 = schedule.index_of(49)
    assert schedule.column(into_49) == 5  # "iteration of 25" would say 4
    assert schedule.column(schedule.index_of(25)) == 3
    assert [schedule.column(si) for si in range(1, 14)] == [
        0,
        1,
        2,
        3,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        13,
    ]
    for si in range(1, 14):
        assert schedule.column(si) == length2iteration[schedule.lengths[si]] - 1


@pytest.mark.parametrize("si", [0, -1, -5])
def test_no_transition_leads_into_the_first_stage_or_into_training(si):
    with pytest.raises(ValueError, match="si must be from 1 to 13"):
        StageSchedule(HART_1024).column(si)


def test_other_schedules_count_transitions_like_var():
    schedule = StageSchedule(VAR_256)
    assert not schedule.is_hart
    assert schedule.columns == tuple(range(9))
    assert schedule.column(9) == 8  # 169 -> 256 is column 8 in VAR's files


def test_a_short_hart_schedule_keeps_the_columns_of_its_stages():
    schedule = StageSchedule((1, 2, 4, 16))
    assert schedule.is_hart
    assert schedule.columns == (0, 2, 8)


def test_tables_are_15_wide_unless_the_schedule_needs_more():
    assert StageSchedule(HART_1024).width == TABLE_WIDTH == 15
    assert StageSchedule(VAR_256).width == 15
    assert StageSchedule(tuple(range(1, 21))).width == 19


def test_schedule_facts():
    schedule = StageSchedule([1, 2, 3])
    assert schedule.patch_nums == (1, 2, 3)
    assert schedule.lengths == (1, 4, 9)
    assert schedule.num_stages == 3
    assert schedule.transitions == ((1, 4), (4, 9))
    assert schedule == StageSchedule((1, 2, 3))
    assert hash(schedule) == hash(StageSchedule((1, 2, 3)))


@pytest.mark.parametrize("sides", [(), (1,), (1, 1), (2, 1), (0, 1), (-1, 2)])
def test_impossible_schedules_are_refused(sides):
    with pytest.raises(ValueError, match="patch_nums"):
        StageSchedule(sides)


@pytest.mark.parametrize("sides", [(1, 2.0), (True, 2), ("1", "2"), "12", 12, None])
def test_sides_that_are_not_integers_are_refused(sides):
    with pytest.raises(TypeError, match="patch_nums"):
        StageSchedule(sides)


def test_unknown_stages_are_named_in_the_error():
    schedule = StageSchedule((1, 2, 3))
    with pytest.raises(ValueError, match=r"16 tokens.*1, 4, 9"):
        schedule.index_of(16)
    with pytest.raises(ValueError, match="si must be from 1 to 2, got 3"):
        schedule.column(3)
