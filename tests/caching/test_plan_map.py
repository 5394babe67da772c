"""A plan shows itself in a notebook, and in a line elsewhere."""

from __future__ import annotations

from hart.modules.networks.caching.plan import decide_all
from hart.modules.networks.caching.plan_map import COLOURS
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.stages import StageSchedule

SIDES, DEPTH = (1, 2, 3, 4, 6, 8), 3


def test_a_plan_is_shown_as_it_is():
    schedule = StageSchedule(SIDES)
    rows = [[0.9] * schedule.width for _ in range(DEPTH)]
    tables = SimilarityTables(rows, [list(row) for row in rows], images=1)
    plan = decide_all(preset_config("hybrid", SIDES), schedule, tables)
    reused = plan.reused("attn") + plan.reused("mlp")
    pruned = plan.pruned("attn") + plan.pruned("mlp")
    assert min(reused, pruned) > 0
    words = f"of 36 modules {reused} reused, {pruned} with tokens left out"
    assert repr(plan) == f"Plan(6 stages of 3 layers: {words})"
    shown = plan._repr_html_()
    assert shown.count(f'reused" style="background:{COLOURS["reused"]}') == reused
    assert shown.count('tokens left out" style=') == pruned
    assert shown.count('computed" style=') == 36 - reused - pruned
    assert "no guidance from 36 tokens on" in shown
