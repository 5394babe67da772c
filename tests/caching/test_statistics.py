"""Counting module calls, multiply-adds, bytes and thresholds, without a model."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.generation_counts import (
    AdaptedThreshold,
    GenerationCounts,
    SiteCounts,
)
from hart.modules.networks.caching.multiply_adds import (
    TransformerShape,
    attention_macs,
    mlp_macs,
    transformer_macs,
)
from hart.modules.networks.caching.plan import Action, decide_all
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.stages import StageSchedule
from hart.modules.networks.caching.statistics import CacheStatistics, similarity_stats

PUBLISHED = TransformerShape(
    depth=24,
    embed_dim=1536,
    mlp_hidden=4096,
    mlp_matrices=3,
    context_token=300,
    patch_nums=(1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
)
SMALL = TransformerShape(2, 8, 16, 2, 5, (1, 2, 3))
SCHEDULE = StageSchedule(SMALL.patch_nums)
SKIP_LAST = CacheConfig([9], [4])
REUSE, COMPUTE = Action(reuse=True), Action()


def nothing_timed():
    return (), 0.0


def planned(attn: list[float], mlp: list[float], config=SKIP_LAST, rows=1) -> GenerationCounts:
    """Counts of a generation of SMALL; the entries are each layer's similarity in every column."""
    tables = SimilarityTables([[v] * 15 for v in attn], [[v] * 15 for v in mlp])
    plan = decide_all(config, SCHEDULE, tables)
    counts = GenerationCounts(SMALL)
    for si, tokens in enumerate(SMALL.new_tokens):
        for module, action in enumerate(plan[si]):
            counts.count(module // 2, si, SITES[module % 2], action, si == 2, rows, tokens)
    return counts


def statistics_of(*generations: GenerationCounts) -> CacheStatistics:
    statistics = CacheStatistics(SMALL)
    for counts in generations:
        statistics.add(counts, 1, nothing_timed)
    return statistics


def test_calls_are_counted_per_stage_and_site():
    counts = GenerationCounts(SMALL)
    counts.count(0, 2, "attn", REUSE, True, 2, 9)
    counts.count(1, 2, "attn", COMPUTE, True, 2, 9)
    counts.count(0, 2, "mlp", COMPUTE, False, 2, 9)
    counts.count(0, 1, "mlp", Action(store=True), False, 2, 4)
    statistics = statistics_of(counts)
    calls = statistics.calls()
    nothing = {"computed": 0, "reused": 0, "stored": 0, "not_eligible": 0}
    assert list(calls) == ["1", "4", "9"]
    assert calls["9"]["attn"] == {**nothing, "computed": 1, "reused": 1}
    assert calls["9"]["mlp"] == {**nothing, "computed": 1, "not_eligible": 1}
    assert calls["4"]["mlp"] == {**nothing, "computed": 1, "stored": 1, "not_eligible": 1}
    assert calls["1"]["attn"] == nothing
    assert statistics.counts(2, "attn").reuse_rate == 0.5
    assert statistics.counts(0, "attn").reuse_rate == 0.0
    assert statistics.total().computed == 3
    assert statistics.total("attn").computed == 1


def test_generations_add_up_and_a_reset_forgets_everything():
    counts = planned([0.9, 0.9], [0.0, 0.9])
    counts.hold(100)
    counts.thresholds[2] = AdaptedThreshold(0.5, 0.4, 0.6)
    statistics = CacheStatistics(SMALL)
    for _ in range(2):
        statistics.add(counts, 3, lambda: ((1.0, 2.0, 3.0), 4.0))
    values = statistics.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["images"] == 6
    assert values["stages"]["9"]["attn"]["reused"] == values["totals"]["attn"]["reused"] == 2
    assert values["modules"] == {"all": 2 * 2 * 3, "reused": 2 + 1, "pruned": 0}
    assert values["stages"]["9"]["mlp"]["reuse_rate"] == 0.5
    assert values["feature_cache_bytes"] == {"now": 0, "peak": 100}
    assert values["seconds"] == {"stages": {"1": 2.0, "4": 4.0, "9": 6.0}, "residual": 8.0}
    statistics.reset()
    assert statistics.to_dict() == CacheStatistics(SMALL).to_dict()


def test_a_running_generation_shows_its_bytes_and_nothing_else():
    running = GenerationCounts(SMALL)
    for held in (100, 160, 120):
        running.hold(held)
    running.count(0, 0, "attn", COMPUTE, False, 2, 5)
    values = statistics_of().to_dict(running)
    assert values["feature_cache_bytes"] == {"now": 120, "peak": 160}
    assert values["totals"]["attn"]["computed"] == 0


def test_the_clock_is_read_once_and_not_before_somebody_asks_or_the_next_generation_ends():
    read = []

    def clock(name):
        def seconds():
            read.append(name)
            return (1.0,), 0.0

        return seconds

    statistics = CacheStatistics(SMALL)
    statistics.add(GenerationCounts(SMALL), 1, clock("first"))
    assert read == []
    statistics.add(GenerationCounts(SMALL), 1, clock("second"))
    assert read == ["first"]
    for _ in range(2):
        assert statistics.to_dict()["seconds"]["stages"]["1"] == 2.0
    assert read == ["first", "second"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_does_not_copy_the_clock(copied):
    statistics = CacheStatistics(SMALL)
    statistics.add(GenerationCounts(SMALL), 1, lambda: ((1.0,), 2.0))  # cannot be pickled
    assert copied(statistics).to_dict() == statistics.to_dict()


def test_thresholds_are_summarised_over_generations():
    first, second = GenerationCounts(SMALL), GenerationCounts(SMALL)
    first.thresholds[2] = AdaptedThreshold(calibrated=0.8, measured=0.5, effective=1.0)
    second.thresholds[2] = AdaptedThreshold(calibrated=0.8, measured=0.7, effective=0.8)
    thresholds = statistics_of(first, second, GenerationCounts(SMALL)).to_dict()["thresholds"]
    assert list(thresholds) == ["9"]
    assert thresholds["9"]["calibrated"] == pytest.approx({"mean": 0.8, "min": 0.8, "max": 0.8})
    assert thresholds["9"]["measured"] == pytest.approx({"mean": 0.6, "min": 0.5, "max": 0.7})
    assert thresholds["9"]["effective"] == pytest.approx({"mean": 0.9, "min": 0.8, "max": 1.0})


def test_formulas_by_hand_for_a_small_shape():
    # 4 new tokens, 5 text + 4 = 9 keys, C = 8, two 8x16 matrices.
    assert attention_macs(SMALL, 4, keys=9) == 4 * 4 * 64 + 2 * 4 * 9 * 8
    assert mlp_macs(SMALL, 4) == 4 * 2 * 8 * 16
    stages = transformer_macs(SMALL)
    assert stages[0] == 2 * (4 * 5 * 64 + 2 * 5 * 5 * 8 + 5 * 2 * 8 * 16)  # the text context
    assert stages[1] == 2 * (attention_macs(SMALL, 4, 9) + mlp_macs(SMALL, 4))


def test_without_text_stage_0_has_its_own_map():
    assert TransformerShape(1, 8, 16, 2, 0, (2, 3)).new_tokens == (4, 9)


def test_published_size_blocks_without_head_and_with_two_guidance_rows():
    stages = [2 * macs for macs in transformer_macs(PUBLISHED)]
    assert sum(PUBLISHED.new_tokens) == 9750
    assert sum(stages) == 22_077_988_356_096  # 22.1 T; with the head it would be 22.2 T
    shares = {
        side: round(100 * macs / sum(stages), 1)
        for side, macs in zip(PUBLISHED.patch_nums, stages, strict=True)
    }
    assert [shares[side] for side in (64, 48, 36, 27)] == [51.9, 22.9, 10.9, 5.5]


def test_reusing_nothing_saves_nothing():
    statistics = statistics_of(planned([0.0, 0.0], [0.0, 0.0], rows=2))
    assert statistics.total().multiply_adds_computed == 2 * sum(transformer_macs(SMALL))
    assert statistics.total().multiply_adds_saved == 0
    assert statistics.saved_share == CacheStatistics(SMALL).saved_share == 0.0


def test_reusing_the_last_stage_saves_exactly_its_share():
    stages = transformer_macs(SMALL)
    statistics = statistics_of(planned([0.9, 0.9], [0.9, 0.9]))
    assert statistics.saved_share == pytest.approx(stages[2] / sum(stages))


def test_one_layer_and_one_site_save_their_part_only():
    attn = statistics_of(planned([0.9, 0.0], [0.0, 0.0])).total()
    assert attn.multiply_adds_saved == attention_macs(SMALL, 9, keys=18)
    mlp = statistics_of(planned([0.0, 0.0], [0.0, 0.9])).total()
    assert mlp.multiply_adds_saved == mlp_macs(SMALL, 9)


def test_keys_that_a_reused_attention_never_added_are_saved_at_the_next_stage():
    statistics = statistics_of(planned([0.9, 0.0], [0.0, 0.0], CacheConfig([4], [1])))
    assert statistics.counts(1, "attn").multiply_adds_saved == attention_macs(SMALL, 4, keys=9)
    assert statistics.counts(2, "attn").multiply_adds_saved == 2 * 9 * 4 * 8
    assert statistics.counts(2, "attn").reused == 0
    whole = statistics.total().multiply_adds_computed + statistics.total().multiply_adds_saved
    assert whole == sum(transformer_macs(SMALL))


def test_the_parts_of_what_is_saved_go_to_guidance_then_reuse_then_pruning():
    """SMALL's layer 0: reused at 4 tokens; at 9 without guidance, 3 tokens pruned, 5 + 6 keys."""
    counts = GenerationCounts(SMALL)
    counts.count(0, 0, "attn", COMPUTE, False, 2, 5)
    counts.count(0, 1, "attn", REUSE, True, 2, 4)
    counts.stop_guidance(0)
    counts.count(0, 2, "attn", Action(ratio=1 / 3), False, 1, 9)
    counts.count(0, 2, "mlp", Action(ratio=1 / 3), False, 1, 9)
    first, second, third = (stage["attn"] for stage in counts.stages)
    assert first.multiply_adds_saved == 0
    assert second.multiply_adds_saved_by_reuse == 2 * attention_macs(SMALL, 4, keys=9)
    assert second.multiply_adds_saved == second.multiply_adds_saved_by_reuse
    whole, without_reused_keys = (attention_macs(SMALL, 9, keys=k) for k in (18, 14))
    assert third.multiply_adds_computed == attention_macs(SMALL, 6, keys=11)
    assert third.multiply_adds_saved_by == {
        "guidance": whole,
        "reuse": whole - without_reused_keys,
        "pruning": without_reused_keys - attention_macs(SMALL, 6, keys=11),
    }
    assert third.multiply_adds_saved + third.multiply_adds_computed == 2 * whole
    mlp = counts.stages[2]["mlp"].multiply_adds_saved_by
    assert mlp == {"guidance": mlp_macs(SMALL, 9), "reuse": 0, "pruning": mlp_macs(SMALL, 3)}


def test_site_counts_name_their_rate():
    assert SiteCounts(computed=1, reused=3).to_dict()["reuse_rate"] == 0.75


def test_similarity_stats_leave_out_what_was_not_measured():
    stats = similarity_stats(SimilarityTables([[0.0, 0.5]], [[0.25, 0.75]], images=4))
    assert stats == {
        "images": 4,
        "attn": {"measured": 1, "mean": 0.5, "min": 0.5, "max": 0.5},
        "mlp": {"measured": 2, "mean": 0.5, "min": 0.25, "max": 0.75},
    }
