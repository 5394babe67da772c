"""Choosing tokens and restoring maps, against FastVAR's own numbers and by hand."""

from __future__ import annotations

import pytest
import torch

from hart.modules.networks.caching.interpolate import select_positions
from hart.modules.networks.caching.plan import kept_tokens
from hart.modules.networks.caching.pruning import (
    distinctiveness,
    resize_area,
    restore_tokens,
    split_tokens,
)
from tests.golden_data import load_case

GOLDEN = load_case("fastvar-select")
CASES = GOLDEN.meta["select"]


def raster_order(index, values):
    """FastVAR's kept tokens, highest score first, in the order of their positions."""
    order = index.long().argsort(dim=1)
    return index.long().gather(1, order), select_positions(values, order)


@pytest.mark.parametrize("name", CASES)
def test_selection_and_restoring_are_fastvars(name):
    about, given = CASES[name], GOLDEN.inputs
    x, stored = given[f"select.{name}.x"], given[f"select.{name}.stored"]
    assert kept_tokens(x.shape[1], about["ratio"]) == about["kept"]
    expected, kept_output = raster_order(
        GOLDEN.outputs[f"select.{name}.idx"], given[f"select.{name}.kept_output"]
    )
    index, left_out = split_tokens(x, about["kept"])
    assert index.equal(expected)
    everything = torch.cat((index, left_out), dim=1).sort(dim=1).values
    assert everything.equal(torch.arange(x.shape[1]).expand_as(everything))
    full = resize_area(stored, about["stored_side"], about["side"])
    torch.testing.assert_close(
        restore_tokens(kept_output, index, full),
        GOLDEN.outputs[f"select.{name}.restored"],
        atol=1e-6,  # other arithmetic: 3e-7
        rtol=0,
    )


@pytest.mark.parametrize(
    ("tokens", "ratio", "kept"),
    [(2304, 0.5, 1152), (4096, 0.75, 1024), (49, 0.3, 35), (100, 0.29, 72), (9, 0.0, 9),
     (1, 0.9, 1), (4, 0.9999999, 1)],
)  # fmt: skip
def test_the_number_of_kept_tokens(tokens, ratio, kept):
    assert kept_tokens(tokens, ratio) == kept


def test_areas_by_hand():
    x = torch.tensor([0.0, 3.0, 9.0]).repeat(3, 1).view(1, 9, 1)  # the same in every row
    row = resize_area(x, 3, 4).view(4, 4)[0]
    assert row.tolist() == [0.0, 1.5, 6.0, 9.0]
    assert resize_area(x, 3, 6).view(6, 6)[0].tolist() == [0, 0, 3, 3, 9, 9]
    assert resize_area(x, 3, 3).equal(x)
    with pytest.raises(ValueError, match="side 4"):
        resize_area(x, 4, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_kept(dtype):
    x = torch.randn(2, 9, 4).to(dtype)
    full = resize_area(x, 3, 5)
    assert full.dtype == dtype
    index, _ = split_tokens(full, 10)
    assert restore_tokens(torch.zeros(2, 10, 4), index, full).dtype == dtype
    assert distinctiveness(x).dtype == torch.float32


def test_of_equal_tokens_the_earlier_ones_are_kept():
    x = torch.zeros(1, 16, 2)
    x[0, [3, 8]] = 5.0
    assert split_tokens(x, 4)[0].tolist() == [[0, 1, 3, 8]]


def test_a_rows_choice_does_not_depend_on_the_other_rows():
    x = torch.randn(3, 36, 8)
    together = split_tokens(x, 10)[0]
    for row in range(3):
        assert split_tokens(x[row : row + 1], 10)[0].equal(together[row : row + 1])
