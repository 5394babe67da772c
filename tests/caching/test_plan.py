"""The one decision rule: compute, reuse, store."""

from __future__ import annotations

import re

import pytest

from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.plan import (
    Action,
    adapted_threshold,
    decide_all,
    decide_module,
    is_eligible,
    measured_stages,
    probed_stages,
)
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.stages import StageSchedule

HART_1024 = StageSchedule((1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64))
VAR_256 = StageSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
ALL = CacheConfig(HART_1024.lengths, HART_1024.lengths)


def row(**columns: float) -> list[float]:
    """A table row, ``row(c5=0.9)`` has 0.9 in column 5 and 0 elsewhere."""
    values = [0.0] * 15
    for name, value in columns.items():
        values[int(name[1:])] = value
    return values


def decide(config, length, similarity_row, has_stored=True, schedule=HART_1024, **keywords):
    si = schedule.index_of(length)
    return decide_module(config, schedule, "attn", si, similarity_row, has_stored, **keywords)


def tables_of(attn_rows, mlp_rows=None) -> SimilarityTables:
    return SimilarityTables(attn_rows, mlp_rows or [row() for _ in attn_rows], images=1)


def test_reuse_at_49_reads_column_5():
    assert decide(ALL, 49, row(c5=0.9)).reuse
    assert not decide(ALL, 49, row(c4=0.9)).reuse  # iteration number of the stage before
    assert not decide(ALL, 49, row(c6=0.9)).reuse  # iteration number of the stage itself


def test_store_at_25_reads_column_5_too():
    assert decide(ALL, 25, row(c5=0.9)).store
    assert not decide(ALL, 25, row(c4=0.9)).store  # "iteration of 25", the gap's trap
    assert not decide(ALL, 25, row(c3=0.9)).store  # the column reuse at 25 reads


def test_reuse_and_store_of_one_stage_read_neighbouring_columns():
    assert decide(ALL, 256, row(c8=0.9)) == Action(reuse=True, store=False)
    assert decide(ALL, 256, row(c9=0.9)) == Action(reuse=False, store=True)
    assert decide(ALL, 256, row(c8=0.9, c9=0.9)) == Action(reuse=True, store=True)


def test_every_transition_asks_the_same_column_on_both_sides():
    for si in range(1, HART_1024.num_stages):
        values = [0.0] * 15
        values[HART_1024.column(si)] = 0.9
        for other in range(HART_1024.num_stages):
            action = decide_module(ALL, HART_1024, "mlp", other, values, has_stored=True)
            assert action == Action(reuse=other == si, store=other == si - 1)


def test_other_schedules_use_ordinal_columns():
    config = CacheConfig([169, 256], [100, 169])
    assert decide(config, 169, row(c7=0.9), schedule=VAR_256) == Action(True, False)
    assert decide(config, 169, row(c8=0.9), schedule=VAR_256) == Action(False, True)
    assert decide(config, 100, row(c7=0.9), schedule=VAR_256) == Action(False, True)


def test_nothing_stored_means_compute():
    assert decide(ALL, 256, row(c8=0.9), has_stored=False) == Action(False, False)


def test_an_empty_table_computes_everywhere_even_at_threshold_zero():
    config = CacheConfig(HART_1024.lengths, HART_1024.lengths, threshold=0.0)
    for si in range(HART_1024.num_stages):
        assert decide_module(config, HART_1024, "attn", si, row(), True) == Action()


def test_the_threshold_must_be_exceeded_not_met():
    config = CacheConfig([256], [144], threshold=0.7)
    assert not decide(config, 256, row(c8=0.7)).reuse
    assert not decide(config, 144, row(c8=0.7)).store
    assert decide(config, 256, row(c8=0.70001)).reuse
    assert decide(config, 144, row(c8=0.70001)).store


def test_a_disabled_site_neither_reuses_nor_stores():
    config = CacheConfig([256, 441], [144, 256], enable_attn_cache=False)
    high = [0.9] * 15
    si = HART_1024.index_of(256)
    assert decide_module(config, HART_1024, "attn", si, high, True) == Action(False, False)
    assert decide_module(config, HART_1024, "mlp", si, high, True) == Action(True, True)


def test_storing_needs_the_cache_list_and_reusing_the_skip_list():
    high = [0.9] * 15
    assert decide(CacheConfig([441], [256]), 256, high) == Action(False, True)
    assert decide(CacheConfig([256], [256]), 256, high) == Action(True, False)
    assert decide(CacheConfig([256, 441], []), 256, high) == Action(True, False)


def test_the_first_stage_never_reuses_but_may_store():
    assert decide(ALL, 1, [0.9] * 15) == Action(reuse=False, store=True)
    assert decide(ALL, 1, row(c0=0.9)).store
    assert not decide(CacheConfig([4], [4]), 1, [0.9] * 15).store


def test_the_last_stage_never_stores():
    assert decide(ALL, 4096, [0.9] * 15) == Action(reuse=True, store=False)


def test_training_does_neither():
    assert decide_module(ALL, HART_1024, "attn", -1, [0.9] * 15, True) == Action(False, False)


def test_an_unknown_site_is_an_error():
    with pytest.raises(ValueError, match="ffn"):
        decide_module(ALL, HART_1024, "ffn", 3, row(), True)


def test_a_given_threshold_replaces_the_configured_one():
    config = CacheConfig([256, 441], [144, 256], threshold=0.7)
    similar = row(c8=0.8, c9=0.8)
    assert decide(config, 256, similar, threshold=0.9) == Action(False, False)
    assert decide(config, 256, row(c8=0.6), threshold=0.5) == Action(True, False)
    assert decide(config, 256, row(c8=0.6), threshold=0.0).reuse  # 0 is not "none given"


def test_an_adaptive_threshold_takes_every_dissimilarity_as_the_probe_found_it():
    config = CacheConfig(threshold=0.7, adaptive_threshold=True)
    assert adapted_threshold(config, [0.9], [0.9]) == pytest.approx(0.7)
    twice_as_dissimilar, half = (adapted_threshold(config, [0.9], [m]) for m in (0.8, 0.95))
    assert twice_as_dissimilar == pytest.approx(0.85)
    assert half == pytest.approx(0.4)
    for threshold, factor in ((twice_as_dissimilar, 2), (half, 0.5)):
        assert 1 - (1 - threshold) * factor == pytest.approx(0.7)  # what just passes it
    both_ways = adapted_threshold(config, [0.9, 0.5], [0.8, 0.75])
    assert both_ways == pytest.approx(0.7)  # sites weigh the same, however alike their outputs
    assert adapted_threshold(config, [0.9, 0.5], [0.8, 0.25]) == pytest.approx(0.9)  # 2 * 1.5


def test_an_adaptive_threshold_stays_within_its_bounds():
    config = CacheConfig(threshold=0.7, adaptive_threshold=True)
    assert adapted_threshold(config, [0.5], [0.99]) == 0.0
    assert adapted_threshold(config, [1.0], [1.0]) == pytest.approx(0.7)  # no ratio of nothing
    assert 0.99 < adapted_threshold(config, [1.0], [0.2]) <= 1.0
    assert adapted_threshold(CacheConfig(threshold=1.0), [0.9], [0.99]) == 1.0  # never reuses


def test_an_adaptive_run_stores_what_a_looser_threshold_could_reuse():
    adaptive = CacheConfig([256], [144], threshold=0.7, adaptive_threshold=True)
    assert decide(adaptive, 144, row(c8=0.3)).store
    assert not decide(adaptive, 144, row()).store
    assert not decide(CacheConfig([256], [144], threshold=0.7), 144, row(c8=0.3)).store


def test_the_probe_measures_the_opening_and_the_last_stage_before_any_reuse():
    def sizes(skip, cache, **fields):
        config = CacheConfig(skip, cache, adaptive_threshold=True, **fields)
        return [HART_1024.lengths[si] for si in probed_stages(config, HART_1024)]

    assert sizes([256, 441], [144, 256]) == [4, 144]
    assert sizes([81, 256], [144]) == [4, 144]  # nothing is kept for 81
    assert sizes([16], [9]) == [4, 9]
    assert sizes([9], [4]) == [4]
    assert sizes([4, 9], [1, 4]) == []
    assert sizes([256], []) == []
    assert probed_stages(CacheConfig([256], [144]), HART_1024) == ()


def test_the_probe_is_reused_like_any_block():
    adaptive = CacheConfig([256], [144], enable_mlp_cache=False, adaptive_threshold=True)
    known = [0.9] * 15
    for length in (1, 4, 81, 144, 256):
        assert decide(adaptive, length, known, layer=0) == decide(adaptive, length, known, layer=1)
    assert decide(adaptive, 256, known, layer=0).reuse


def test_what_the_table_does_not_know_is_not_measured():
    adaptive = CacheConfig([256], [144], enable_mlp_cache=False, adaptive_threshold=True)
    known = [0.9] * 15

    def measured(site, layer, similarities):
        stages = measured_stages(adaptive, HART_1024, site, layer, similarities)
        return [HART_1024.lengths[si] for si in stages]

    assert measured("attn", 0, known) == [4, 144]
    assert measured("attn", 0, [0.0] * 15) == []
    assert measured("attn", 1, known) == measured("mlp", 0, known) == []


def test_eligibility_is_the_configurations_part_of_the_rule():
    config = CacheConfig([1, 256], [144], enable_mlp_cache=False)
    at_256 = HART_1024.index_of(256)
    assert is_eligible(config, HART_1024, "attn", at_256)
    assert not is_eligible(config, HART_1024, "mlp", at_256)
    assert not is_eligible(config, HART_1024, "attn", at_256 - 1)
    assert not is_eligible(config, HART_1024, "attn", 0)
    assert not is_eligible(config, HART_1024, "attn", -1)


def test_a_plan_reuses_only_what_the_stage_before_stored():
    plan = decide_all(
        CacheConfig([256, 441], [256]), HART_1024, tables_of([[0.9] * 15, row(c9=0.9)])
    )
    stages = [HART_1024.index_of(length) for length in (144, 256, 441)]
    for layer in range(2):
        actions = [plan.action(si, layer, "attn") for si in stages]
        assert actions == [Action(), Action(False, True), Action(True, False)]
    assert plan.reused("attn") == plan.stored("attn") == 2
    assert plan.reused("mlp") == 0


def test_a_chain_reuses_and_stores_the_reused_output():
    config = CacheConfig([256, 441, 729], [144, 256, 441])
    plan = decide_all(config, HART_1024, tables_of([row(c8=0.9, c9=0.9, c10=0.9)]))
    stages = [HART_1024.index_of(length) for length in (144, 256, 441, 729, 1296)]
    assert [plan.action(si, 0, "attn") for si in stages] == [
        Action(False, True), Action(True, True), Action(True, True), Action(True, False), Action(),
    ]  # fmt: skip


def test_a_broken_chain_does_not_reach_over_a_stage():
    config = CacheConfig([256, 441], [144, 256])
    plan = decide_all(config, HART_1024, tables_of([row(c8=0.9), row(c9=0.9)]))
    at_256, at_441 = HART_1024.index_of(256), HART_1024.index_of(441)
    assert plan.action(at_256, 0, "attn") == Action(True, False)
    assert plan.action(at_441, 0, "attn") == Action(False, False)  # 144's output was dropped
    assert plan.action(at_256, 1, "attn") == Action(False, True)
    assert plan.action(at_441, 1, "attn") == Action(True, False)


def test_an_output_that_was_used_up_is_dropped_and_not_kept_for_a_later_stage():
    config = CacheConfig([256, 441], [144])  # 256 may not store, so nothing feeds 441
    plan = decide_all(config, HART_1024, tables_of([[0.9] * 15]))
    assert plan.action(HART_1024.index_of(256), 0, "attn") == Action(True, False)
    assert plan.action(HART_1024.index_of(441), 0, "attn") == Action(False, False)


def test_a_plan_equals_walking_the_rule_by_hand():
    rows = [[((3 * layer + 5 * column) % 10) / 10 for column in range(15)] for layer in range(4)]
    config = CacheConfig([49, 81, 256, 441, 4096], [25, 49, 144, 256, 2304], threshold=0.4)
    plan = decide_all(config, HART_1024, tables_of(rows, rows[::-1]))
    for site, table in (("attn", rows), ("mlp", rows[::-1])):
        for layer in range(4):
            stored = False
            for si in range(HART_1024.num_stages):
                action = decide_module(config, HART_1024, site, si, table[layer], stored)
                assert plan.action(si, layer, site) == action
                stored = action.store
    assert plan.reuses_anything
    assert plan.reasons == ()


def test_plan_counts_per_stage_and_site():
    plan = decide_all(CacheConfig([256], [144]), HART_1024, tables_of([row(c8=0.9), row()]))
    counts = plan.counts()
    assert list(counts) == [str(length) for length in HART_1024.lengths]
    assert counts["144"]["attn"] == {"computed": 2, "reused": 0, "stored": 1}
    assert counts["256"]["attn"] == {"computed": 1, "reused": 1, "stored": 0}
    assert counts["256"]["mlp"] == {"computed": 2, "reused": 0, "stored": 0}
    assert plan.reused("attn", HART_1024.index_of(256)) == 1
    assert plan.depth == 2


def test_training_in_a_plan_computes_instead_of_reading_the_last_stage():
    plan = decide_all(CacheConfig([4096], [2304]), HART_1024, tables_of([[0.9] * 15]))
    assert plan.action(13, 0, "attn").reuse
    assert plan.action(-1, 0, "attn") == Action()


def test_a_block_that_always_computes_neither_reuses_nor_stores():
    config = CacheConfig([256, 441], [144, 256], compute_mlp_layers=[0], compute_attn_layers=[1])
    plan = decide_all(config, HART_1024, tables_of([[0.9] * 15] * 2, [[0.9] * 15] * 2))
    at_256 = HART_1024.index_of(256)
    reuses_and_stores = Action(reuse=True, store=True)
    assert plan.action(at_256, 0, "mlp") == plan.action(at_256 - 1, 0, "mlp") == Action()
    assert plan.action(at_256, 1, "mlp") == plan.action(at_256, 0, "attn") == reuses_and_stores
    assert plan.action(at_256, 1, "attn") == Action()
    assert not is_eligible(config, HART_1024, "mlp", at_256, 0)
    assert is_eligible(config, HART_1024, "mlp", at_256, 1)
    assert is_eligible(config, HART_1024, "mlp", at_256)


def test_a_block_that_always_computes_can_still_leave_out_tokens():
    config = CacheConfig([256], [144], compute_mlp_layers=[0], prune_stages={256: 0.5})
    plan = decide_all(config, HART_1024, tables_of([[0.9] * 15], [[0.9] * 15]))
    action = plan.action(HART_1024.index_of(256), 0, "mlp")
    assert (action.reuse, action.ratio) == (False, 0.5)


def test_the_probe_leaves_out_no_tokens_of_what_is_compared():
    config = CacheConfig([256], [144], adaptive_threshold=True, prune_stages={81: 0.5, 144: 0.5})
    plan = decide_all(config, HART_1024, tables_of([[0.9] * 15] * 2, [[0.9] * 15] * 2))
    for length in (81, 144):
        si = HART_1024.index_of(length)
        assert [plan.action(si, layer, "mlp").ratio for layer in (0, 1)] == [0.0, 0.5]


def test_tables_of_the_wrong_width_are_refused():
    with pytest.raises(ValueError, match="expected 15 columns, found 9"):
        decide_all(ALL, HART_1024, tables_of([[0.5] * 9]))


@pytest.mark.parametrize(
    ("config", "tables", "reasons"),
    [
        (CacheConfig([256], [144], False, False), tables_of([[0.9] * 15]), ["disabled"]),
        (CacheConfig(), tables_of([[0.9] * 15]), ["no skip stages"]),
        (
            CacheConfig([100, 169], [64, 100]),
            tables_of([[0.9] * 15]),
            [r"none of the skip stages 100, 169 .*1, 4, 9"],
        ),
        (CacheConfig([256], [169]), tables_of([[0.9] * 15]), ["before 256 is not in cache_stages"]),
        (CacheConfig([256], [144]), tables_of([row()]), ["table is empty"]),
        (
            CacheConfig([256, 441], [144, 256]),
            tables_of([row(c8=0.2), row(c8=0.61, c9=0.4, c13=0.99)], [row(), row(c9=0.7)]),
            [
                r"attn: .*best was 0\.61 at stage 256, threshold 0\.7",
                r"mlp: .*best was 0\.70 at stage 441, threshold 0\.7",
            ],
        ),
        (
            CacheConfig([256], [144], enable_attn_cache=False, compute_mlp_layers=[0]),
            tables_of([row()], [[0.9] * 15]),
            ["mlp: every block .* always computed"],
        ),
    ],
)
def test_a_plan_that_reuses_nothing_says_why(config, tables, reasons):
    plan = decide_all(config, HART_1024, tables)
    assert not plan.reuses_anything
    assert len(plan.reasons) == len(reasons)
    for text, pattern in zip(plan.reasons, reasons, strict=True):
        assert re.search(pattern, text), text
