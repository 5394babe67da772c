"""Numbers of repeated runs, against values worked out by hand."""

from __future__ import annotations

import pytest
from PIL import Image

from hart.evaluation.comparison_report import speedups
from hart.evaluation.timing import mean_seconds, seconds_by_part, spread
from hart.pipeline import ImageResult
from hart.pipeline.results import PartSeconds


def result(text_s, stages_s, residual_s, decode_s) -> ImageResult:
    picture = Image.new("RGB", (8, 8))
    return ImageResult(text_s, stages_s, residual_s, decode_s, 0, "a", 0, picture, 1, {})


def seconds(total: float) -> PartSeconds:
    return PartSeconds(text_s=0.0, stages_s=(total,), residual_s=0.0, decode_s=0.0)


def test_spread_interpolates_between_the_runs():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "p5": 1.2, "p95": 4.8}
    assert spread([2.0, 1.0])["median"] == 1.5


def test_spread_of_one_run_has_no_width():
    assert spread([7.0]) == {"median": 7.0, "p5": 7.0, "p95": 7.0}


def test_spread_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="values is empty"):
        spread([])


def test_a_runs_seconds_are_means_over_its_images():
    run = mean_seconds([result(1, (2.0, 4.0), 6, 8), result(3, (4.0, 8.0), 10, 0)])
    assert run == PartSeconds(text_s=2, stages_s=(3, 6), residual_s=8, decode_s=4)
    assert (run.transformer_s, run.total_s) == (9, 23)


def test_without_a_text_encoder_its_time_is_neither_shown_nor_added():
    run = mean_seconds([result(100, (1.0,), 1, 1)], with_text=False)
    assert run.text_s is None
    assert run.total_s == 3


def test_a_run_without_images_is_an_error():
    with pytest.raises(ValueError, match="results is empty"):
        mean_seconds([])


def test_every_part_has_its_own_spread():
    runs = [PartSeconds(1, (2, 3), 4, 5), PartSeconds(3, (2, 5), 4, 9)]
    parts = seconds_by_part(runs, (1, 4))
    medians = {name: part["median"] for name, part in parts.items() if name != "stages"}
    assert medians == {"total": 19, "text": 2, "transformer": 6, "residual": 4, "decode": 7}
    assert {name: part["median"] for name, part in parts["stages"].items()} == {"1": 2, "4": 4}


def test_a_last_stage_that_is_left_out_has_no_entry():
    assert list(seconds_by_part([PartSeconds(None, (1, 1), 0, 1)], (1, 4, 9))["stages"]) == [
        "1",
        "4",
    ]


def test_speedups_are_ratios_within_a_round():
    reference = {1: seconds(10), 2: seconds(30)}
    # The machine was three times slower in the second round; the ratio of means would be 1.33.
    assert speedups(reference, {1: seconds(5), 2: seconds(20)}, lambda r: r.total_s) == [2.0, 1.5]


def test_a_round_in_which_one_was_not_measured_gives_no_speedup():
    reference = {1: seconds(10), 3: seconds(10)}
    assert speedups(reference, {1: seconds(5), 2: seconds(1)}, lambda r: r.total_s) == [2.0]
