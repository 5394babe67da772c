"""Counting module calls and the multiply-adds that reuse saves."""

from __future__ import annotations

import json

import pytest

from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.decisions import decide_all
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.stages import StageSchedule
from hart.modules.networks.caching.statistics import (
    CacheStatistics,
    SiteCounts,
    TransformerShape,
    attention_macs,
    head_macs,
    mlp_macs,
    saved_share,
    transformer_macs,
)

PUBLISHED = TransformerShape(
    depth=24,
    embed_dim=1536,
    mlp_hidden=4096,
    mlp_matrices=3,
    context_token=300,
    vocab_size=4096,
    patch_nums=(1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
)
SMALL = TransformerShape(2, 8, 16, 2, 5, 32, (1, 2, 3))
SCHEDULE = StageSchedule(SMALL.patch_nums)
SKIP_LAST = CacheConfig([9], [4])


def plan(attn: list[float], mlp: list[float], config: CacheConfig = SKIP_LAST):
    """A plan for SMALL; the entries are the similarity of each layer in every column."""
    tables = SimilarityTables([[v] * 15 for v in attn], [[v] * 15 for v in mlp])
    return decide_all(config, SCHEDULE, tables)


def test_calls_are_counted_per_stage_and_site():
    statistics = CacheStatistics(SCHEDULE)
    statistics.record(2, "attn", reuse=True, stored=False, eligible=True)
    statistics.record(2, "attn", reuse=False, stored=False, eligible=True)
    statistics.record(2, "mlp", reuse=False, stored=False, eligible=False)
    statistics.record(1, "mlp", reuse=False, stored=True, eligible=False)
    statistics.record(-1, "mlp", reuse=False, stored=False, eligible=False)
    assert statistics.counts(2, "attn") == SiteCounts(computed=1, reused=1)
    assert statistics.counts(2, "mlp") == SiteCounts(computed=1, not_eligible=1)
    assert statistics.counts(1, "mlp") == SiteCounts(computed=1, stored=1, not_eligible=1)
    assert statistics.counts(0, "attn") == SiteCounts()
    assert statistics.reused_share(2, "attn") == 0.5
    assert statistics.reused_share(0, "attn") == 0.0


def test_the_dictionary_survives_json_and_names_stages_by_token_count():
    statistics = CacheStatistics(SCHEDULE)
    statistics.add_images(3)
    statistics.record(1, "attn", reuse=True, stored=True, eligible=True)
    statistics.record(2, "attn", reuse=True, stored=False, eligible=True)
    values = statistics.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["images"] == 3
    assert list(values["stages"]) == ["1", "4", "9"]
    assert values["stages"]["4"]["attn"]["stored"] == 1
    assert values["totals"]["attn"] == {
        "computed": 0,
        "reused": 2,
        "stored": 1,
        "not_eligible": 0,
    }


def test_reset_forgets_everything():
    statistics = CacheStatistics(SCHEDULE)
    statistics.add_images(1)
    statistics.record(1, "attn", reuse=True, stored=True, eligible=True)
    statistics.reset()
    assert statistics.to_dict() == CacheStatistics(SCHEDULE).to_dict()


def test_formulas_by_hand_for_a_small_shape():
    # Stage 1: 4 new tokens, 5 text + 4 = 9 keys, C = 8, two 8x16 matrices.
    assert attention_macs(SMALL, 1) == 4 * 4 * 64 + 2 * 4 * 9 * 8
    assert attention_macs(SMALL, 1, keys=4) == 4 * 4 * 64 + 2 * 4 * 4 * 8
    assert mlp_macs(SMALL, 1) == 4 * 2 * 8 * 16
    assert head_macs(SMALL, 1) == 4 * 8 * 32
    # Stage 0 is the text context, of which the last position alone needs logits.
    assert attention_macs(SMALL, 0) == 4 * 5 * 64 + 2 * 5 * 5 * 8
    assert mlp_macs(SMALL, 0) == 5 * 2 * 8 * 16
    assert head_macs(SMALL, 0) == 8 * 32


def test_without_text_stage_0_has_its_own_map():
    shape = TransformerShape(1, 8, 16, 2, 0, 32, (2, 3))
    assert shape.new_tokens == (4, 9)


def test_published_size_blocks_without_head_and_with_two_guidance_rows():
    stages = [2 * macs for macs in transformer_macs(PUBLISHED)]
    assert PUBLISHED.keys(13) == 9750
    assert sum(stages) == 22_077_988_356_096  # 22.1 T; with the head it would be 22.2 T
    shares = {
        side: round(100 * macs / sum(stages), 1)
        for side, macs in zip(PUBLISHED.patch_nums, stages, strict=True)
    }
    assert [shares[side] for side in (64, 48, 36, 27)] == [51.9, 22.9, 10.9, 5.5]


def test_reusing_nothing_saves_nothing():
    assert saved_share(plan([0.0, 0.0], [0.0, 0.0]), SMALL) == 0.0
    assert saved_share(CacheStatistics(SCHEDULE), SMALL) == 0.0


def test_reusing_the_last_stage_saves_exactly_its_share():
    stages = transformer_macs(SMALL)
    share = saved_share(plan([0.9, 0.9], [0.9, 0.9]), SMALL)
    assert share == pytest.approx(stages[2] / sum(stages))


def test_one_layer_and_one_site_save_their_part_only():
    total = sum(transformer_macs(SMALL))
    assert saved_share(plan([0.9, 0.0], [0.0, 0.0]), SMALL) == pytest.approx(
        attention_macs(SMALL, 2) / total
    )
    assert saved_share(plan([0.0, 0.0], [0.0, 0.9]), SMALL) == pytest.approx(
        mlp_macs(SMALL, 2) / total
    )


def test_a_plan_counts_the_keys_that_a_reused_attention_never_added():
    reused_at_4 = plan([0.9, 0.0], [0.0, 0.0], CacheConfig([4], [1]))
    total = sum(transformer_macs(SMALL))
    missing_keys = attention_macs(SMALL, 2) - attention_macs(SMALL, 2, keys=5 + 9)
    assert missing_keys == 2 * 9 * 4 * 8
    assert saved_share(reused_at_4, SMALL) == pytest.approx(
        (attention_macs(SMALL, 1) + missing_keys) / total
    )


def statistics_of(decisions) -> CacheStatistics:
    statistics = CacheStatistics(SCHEDULE)
    for site in ("attn", "mlp"):
        for si in range(3):
            for layer in range(2):
                action = decisions.action(si, layer, site)
                statistics.record(si, site, action.reuse, action.store, eligible=si == 2)
    return statistics


def test_statistics_of_a_run_agree_with_the_plan_and_never_overstate():
    last_stage = plan([0.9, 0.0], [0.0, 0.9])
    assert saved_share(statistics_of(last_stage), SMALL) == pytest.approx(
        saved_share(last_stage, SMALL)
    )
    earlier = plan([0.9, 0.0], [0.9, 0.9], CacheConfig([4], [1]))
    assert 0.0 < saved_share(statistics_of(earlier), SMALL) < saved_share(earlier, SMALL)


def test_a_shape_of_another_model_is_refused():
    with pytest.raises(ValueError, match="patch_nums"):
        saved_share(CacheStatistics(SCHEDULE), PUBLISHED)
    with pytest.raises(ValueError, match="depth 2, the plan is for 1"):
        saved_share(plan([0.9], [0.9]), SMALL)
