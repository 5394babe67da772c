"""The grid of images and the plot: sizes, places, wrapped labels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from hart.evaluation.comparison_report import speed_quality_plot
from hart.evaluation.image_grid import CELL, GAP, LINE, PROMPT_WIDTH, image_grid, wrap

COLOURS = {"no-cache": (255, 0, 0), "original": (0, 0, 255)}
HEADER = 2 * LINE + 2 * GAP


def pictures(colour, count: int, side: int = 16) -> list[Image.Image]:
    return [Image.new("RGB", (side, side), colour) for _ in range(count)]


def grid(rows: int, side: int = 16) -> np.ndarray:
    columns = {name: ("1.00x", pictures(c, rows, side)) for name, c in COLOURS.items()}
    return np.asarray(image_grid(["a cat"] * rows, columns))


@pytest.mark.parametrize("side", [14, 16, 256, 300])
def test_every_picture_fills_its_cell(side):
    array = grid(2, side)
    assert array.shape == (HEADER + 2 * (CELL + GAP), PROMPT_WIDTH + 2 * (CELL + GAP) + GAP, 3)
    for column, colour in enumerate(COLOURS.values()):
        for row in range(2):
            top, left = HEADER + row * (CELL + GAP), PROMPT_WIDTH + column * (CELL + GAP)
            assert (array[top : top + CELL, left : left + CELL] == colour).all()


def test_labels_are_drawn_outside_the_pictures():
    array = grid(1)
    assert (array[:HEADER, PROMPT_WIDTH:] < 128).any()
    assert (array[HEADER:, :PROMPT_WIDTH] < 128).any()
    assert (array[:HEADER, :PROMPT_WIDTH] == 255).all()


def test_there_are_at_most_eight_rows():
    assert grid(20).shape == grid(8).shape


def test_a_column_without_its_pictures_is_refused():
    with pytest.raises(ValueError, match="original"):
        image_grid(["a", "b"], {"original": ("", pictures((0, 0, 0), 1))})


FONT = ImageFont.load_default(20)


def test_long_prompts_are_wrapped_at_words():
    prompt = "a large slice of watermelon in the top left corner of a green background"
    lines = wrap(prompt, FONT, 200, 10)
    assert len(lines) > 2
    assert " ".join(lines) == prompt
    assert all(FONT.getlength(line) <= 200 for line in lines)


def test_prompts_longer_than_their_row_end_in_dots():
    lines = wrap("word " * 100, FONT, 200, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("...")
    assert FONT.getlength(lines[-1]) <= 200


def test_a_word_wider_than_a_line_is_broken():
    lines = wrap("a " + "x" * 100, FONT, 200, 20)
    assert lines[0] == "a"
    assert "".join(lines[1:]) == "x" * 100
    assert all(FONT.getlength(line) <= 200 for line in lines)


def entry(speedup: float, ssim: float) -> dict:
    spread = {"median": speedup, "p5": speedup - 0.1, "p95": speedup + 0.2}
    return {"speedup": {"image": spread}, "quality": {"ssim": ssim}}


def test_the_plot_has_a_named_point_per_configuration():
    figure = speed_quality_plot({"no-cache": entry(1, 1), "original": entry(1.5, 0.9)})
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["no-cache: 1.00x, 1.000", "original: 1.50x, 0.900"]
    points = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert points == [[[1.0, 1.0]], [[1.5, 0.9]]]
