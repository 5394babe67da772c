"""Budgets are kept, by the least error there is, and impossible ones name what is possible."""

from __future__ import annotations

import itertools

import pytest

from hart.modules.networks.caching.multiply_adds import TransformerShape
from hart.pipeline.results import PartSeconds
from hart.tuning.costs import MultiplyAdds, Seconds, total
from hart.tuning.measurements import ErrorSum, Measurements, PictureError
from hart.tuning.selection import Selection
from hart.tuning.solve import ErrorModel, Solver
from hart.tuning.targets import Predictor, read_target
from hart.tuning.timed import fitted

SHAPE = TransformerShape(2, 32, 64, 3, 6, (1, 2, 3, 4, 5, 7))
MODULES, STAGES = 4, 6
SECONDS = Seconds(
    other_s=0.5,
    base_s=(0.1,) * STAGES,
    attn_s=(0.0, 0.0, 0.0, 0.0, 0.2, 0.4),
    mlp_s=(0.0, 0.0, 0.0, 0.0, 0.3, 0.6),
    pruned_s=(0.0,) * STAGES,
    unguided=(1.0, 1.0, 1.0, 1.0, 0.6, 0.5),
)


@pytest.fixture
def known() -> Measurements:
    """Made up: later and wider options cost more, no two the same."""
    found = Measurements(SHAPE, None, {"dtype": "float32"}, seconds=SECONDS, memory_bytes=10**6)
    for i, (name, option) in enumerate(found.options.items()):
        size = sum(option.reused) ** 2 + 3 * sum(option.shares) + 4 * option.unguided
        error = 0.01 * size * (1 + (i * 7 % 5) / 3)
        found.errors[name] = ErrorSum(2, 2 * error, 2 * error * error)
    found.pictures = [
        PictureError(0.05, 0.06, 0.97, 30.0, 2),
        PictureError(0.2, 0.3, 0.9, 24.0, 2),
        PictureError(0.6, 1.2, 0.8, 18.0, 2),
    ]
    return found


def all_selections(known: Measurements):
    around = [
        Selection((0,) * MODULES, option.shares, option.token_choice, unguided)
        for option in [Selection((0,) * MODULES), *known.options.values()]
        if not any(option.reused) and not option.unguided
        for unguided in range(3)
    ]
    for each, reused in itertools.product(around, itertools.product(range(3), repeat=MODULES)):
        yield Selection(reused, each.shares, each.token_choice, each.unguided)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_nothing_within_the_budget_is_better(known, share):
    costs = MultiplyAdds(SHAPE)
    solver = Solver(known, costs)
    budget = (1 - share) * solver.whole
    found, errors = solver.solve(budget), ErrorModel(known)
    assert total(costs, found) <= budget
    room = 0.006 * solver.whole  # what rounding up to buckets may waste
    kept = (each for each in all_selections(known) if total(costs, each) <= budget - room)
    assert errors.total(found) <= min(map(errors.total, kept)) + 1e-9


def test_an_empty_selection_has_no_error_and_costs_all(known):
    solver = Solver(known, MultiplyAdds(SHAPE))
    assert solver.solve(solver.whole) == Selection((0,) * MODULES)
    assert ErrorModel(known).total(solver.nothing) == 0


@pytest.mark.parametrize(
    ("name", "value", "figure"),
    [("target_speedup", 1.5, "speedup"), ("target_saved", 0.4, "saved_share")],
)
def test_targets_are_kept_closely(known, name, value, figure):
    plan = known.solve(**{name: value})
    assert value <= plan.predicted[figure] < value * 1.2


def test_likeness_targets_save_as_much_as_they_may(known):
    strict, loose = (known.solve(min_ssim=value).predicted for value in (0.96, 0.85))
    assert strict["ssim"] >= 0.96
    assert loose["ssim"] >= 0.85
    assert 0 < strict["saved_share"] < loose["saved_share"]
    assert known.solve(min_psnr=24).predicted["psnr_db"] >= 24
    assert known.solve(min_ssim=1.0).predicted["saved_share"] == 0


def test_latency_and_memory_are_upper_bounds(known):
    seconds = known.solve(target_saved=0).predicted["seconds"]
    assert known.solve(max_latency=0.7 * seconds).predicted["seconds"] <= 0.7 * seconds
    assert known.solve(max_memory=10**6).predicted["map_error"] == 0
    predictor = Predictor(known)
    least = predictor.memory(Selection((0,) * MODULES, unguided=2))
    assert least < 10**6
    limit = (10**6 + least) / 2
    assert known.solve(max_memory=limit).predicted["memory_bytes"] <= limit


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"target_speedup": 50}, r"target_speedup 50 cannot be reached; the most possible is"),
        ({"target_saved": 0.99}, r"target_saved 0.99 cannot be reached; the most possible is"),
        ({"max_latency": 0.1}, r"max_latency 0.1 cannot be reached; the least possible is"),
        ({"max_memory": 10}, r"max_memory 10 cannot be reached; the least possible is"),
        ({"min_ssim": 1.5}, r"min_ssim must be within \[0, 1\], got 1.5"),
        ({"target_speedup": 0.5}, r"target_speedup must be within \[1, inf\]"),
        ({}, "exactly one target is needed"),
        ({"min_ssim": 0.9, "min_psnr": 20}, "exactly one target is needed"),
        ({"best": 1}, "exactly one target is needed"),
    ],
)
def test_what_cannot_be_is_said(known, target, message):
    with pytest.raises(ValueError, match=message):
        known.solve(**target)


def test_what_was_not_measured_is_said(known):
    known.seconds, known.pictures, known.memory_bytes = None, [], None
    for target, message in (
        ({"target_speedup": 1.5}, "nothing was timed"),
        ({"min_ssim": 0.9}, "needs pictures"),
        ({"max_memory": 1e9}, "needs the memory"),
    ):
        with pytest.raises(ValueError, match=message):
            known.solve(**target)
    with pytest.raises(ValueError, match="no option has been measured"):
        Measurements(SHAPE, None, {}).solve(target_saved=0.1)


def test_seconds_explain_the_draws_that_they_come_from():
    def draws(stages: list[float]) -> list[PartSeconds]:
        return [PartSeconds(0.1, tuple(stages), 0.0, 0.2)]

    found = {
        "nothing": draws([1.0, 3.0, 7.0]),
        "attn": draws([1.0, 3.0, 5.0]),
        "mlp": draws([1.0, 3.0, 3.0]),
        "both": draws([1.0, 3.0, 1.0]),
        "pruned": draws([1.0, 3.0, 4.8]),
        "unguided": draws([1.0, 3.0, 3.5]),
    }
    seconds = fitted(found, depth=2, last=1, batch_size=1)
    assert seconds.attn_s == (0, 0, 1.0)
    assert seconds.mlp_s == (0, 0, 2.0)
    assert seconds.base_s == (1.0, 3.0, 1.0)
    assert seconds.unguided[-1] == 0.5
    for selection, whole in (
        (Selection((0, 0, 0, 0)), 11.3),
        (Selection((1, 1, 1, 1)), 5.3),
        (Selection((0, 0, 0, 0), (0.5,)), 9.1),
        (Selection((0, 0, 0, 0), unguided=1), 7.8),
    ):
        assert total(seconds, selection) == pytest.approx(whole)


def test_a_target_is_read_once():
    assert read_target({"min_ssim": None, "target_speedup": 2}) == ("target_speedup", 2.0)
