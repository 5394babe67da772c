"""The adaptive rule is compared with the fixed one where both reuse as much."""

from __future__ import annotations

import pytest

from benchmarks.adaptive_threshold import at_equal_reuse, matching_thresholds

SIMILARITIES = [0.9, 0.2, 0.5, 0.7, 0.4]


@pytest.mark.parametrize("reuse", [0.25, 0.4, 0.5, 0.79])
def test_matching_thresholds_reuse_one_module_less_and_more(reuse):
    shares = [
        sum(s > threshold for s in SIMILARITIES) / len(SIMILARITIES)
        for threshold in matching_thresholds(SIMILARITIES, reuse)
    ]
    low, high = shares
    assert low <= reuse < high
    assert high - low == pytest.approx(1 / len(SIMILARITIES))


def test_nothing_matches_beyond_all_or_below_one_module():
    assert len(matching_thresholds(SIMILARITIES, 0.1)) == 1
    assert matching_thresholds(SIMILARITIES, 1.0) == []


def test_the_fixed_rules_error_is_read_off_between_its_neighbours():
    fixed = [{"reuse": 0.4, "mse": 10.0}, {"reuse": 0.2, "mse": 4.0}]
    adaptive = [{"threshold": 0.7, "reuse": 0.3, "mse": 6.0}, {"threshold": 0.9, "reuse": 0.1}]
    (row,) = at_equal_reuse(fixed, adaptive)
    assert row["mse_fixed"] == pytest.approx(7.0)
    assert row["mse_adaptive"] == 6.0
