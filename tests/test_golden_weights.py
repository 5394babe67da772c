"""The golden weights that are drawn are the recorded ones."""

from __future__ import annotations

import pytest

from tests.golden_data import load_case
from tests.golden_weights import SPREADS


@pytest.mark.parametrize("name", SPREADS)
def test_their_sums_are_the_recorded_ones(name):
    case = load_case(name)
    finite = [t.double() for t in case.weights().values() if t.isfinite().all()]
    total, squares = case.meta["weight_sums"]
    # Other last bits (SSE only): 2e-6 and 2e-10.
    assert sum(t.sum().item() for t in finite) == pytest.approx(total, rel=1e-5)
    assert sum(t.square().sum().item() for t in finite) == pytest.approx(squares, rel=1e-6)
