"""The comparison of plans: its verdicts, table and plot."""

from __future__ import annotations

import pytest

from benchmarks.plans_report import family, plans_plot, plans_table, verdicts


def entry(saved: float, ssim: float) -> dict:
    quality = {"ssim": ssim, "psnr_db": 25.0, "attribute_accuracy": ssim - 0.1}
    return {"multiply_adds_saved": saved, "quality": quality}


ENTRIES = {
    "no-cache": entry(0.0, 1.0),
    "original": entry(0.45, 0.9),
    "hybrid": entry(0.5, 0.92),
    "aggressive": entry(0.7, 0.99),  # saves more: no rival
    "tuned 50%": entry(0.503, 0.95),
    "affine 50%": entry(0.503, 0.96),
    "tokens by stage 50%": entry(0.5, 0.94),
}


def test_a_plan_is_compared_with_the_best_that_saves_no_more():
    (found,) = verdicts(ENTRIES, [0.25, 0.5])
    assert (found["plan"], found["best_other"]) == ("affine 50%", "hybrid")
    assert found["ssim"] - found["other_ssim"] == pytest.approx(0.04)


def test_the_table_is_in_the_order_of_savings():
    table = plans_table(ENTRIES, verdicts(ENTRIES, [0.5]))
    assert table.index("original") < table.index("affine 50%") < table.index("aggressive")
    assert "| 50% | affine 50% | 0.9600 | 86.0% | hybrid (50.0%) | 0.9200 | 82.0% |" in table


def test_the_plot_has_a_line_for_every_kind():
    pytest.importorskip("matplotlib")
    left, right = plans_plot(ENTRIES).axes
    kinds = {family(name) for name in ENTRIES}
    assert {line.get_label() for line in left.get_lines()} == kinds
    assert len(right.get_lines()) == len(kinds)
