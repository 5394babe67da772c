"""Figures that need no display, and their files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hart.evaluation.extras import import_extra
from hart.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
SITE_TITLES = {"attn": "Attention", "mlp": "MLP"}

# Okabe and Ito's palette, which people with any colour vision can tell apart.
BLUE, ORANGE, VERMILLION, GREY = "#0072B2", "#E69F00", "#D55E00", "#BBBBBB"
HATCHED = {"facecolor": "#EEEEEE", "edgecolor": GREY, "hatch": "////"}
"""Of cells without a value."""


def matplotlib_module(name: str) -> ModuleType:
    """Import ``matplotlib.<name>``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    return import_extra(f"matplotlib.{name}", "a plot", extra="plots")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches which arranges its parts itself.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    return matplotlib_module("figure").Figure(figsize=(width, height), layout="constrained")


def heat_map(
    axes: Axes,
    rows: Sequence[Sequence[float]],
    columns: Sequence[str],
    text: Callable[[float], str],
    **colours: Any,
) -> None:
    """Draw numbers as cells with a text in each, row 0 on top; NaN is hatched and has none."""
    edges = [[i - 0.5 for i in range(count + 1)] for count in (len(columns), len(rows))]
    mesh: Any = axes.pcolormesh(*edges, rows, linewidth=0.6, **colours)
    axes.patch.set(**HATCHED)
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            label = "" if math.isnan(value) else text(value)
            if label:
                colour = _text_colour(mesh.to_rgba(value))
                axes.text(x, y, label, ha="center", va="center", fontsize=6.5, color=colour)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(0, len(rows), 1 if len(rows) <= 32 else 4))
    axes.tick_params(labelsize=8, length=2, labelleft=True)


def _text_colour(background: tuple[float, ...]) -> str:
    """Black or white, whichever stands out more; weights of the relative luminance of sRGB."""
    red, green, blue = (channel**2.2 for channel in background[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def check_figure_file(path: Path) -> None:
    """Raise ValueError unless :func:`save_figure` could write the file, by its suffix."""
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: expected a file ending in {' or '.join(SUFFIXES)}, "
            f"found {path.suffix or 'no suffix'!r}"
        )


def count_images(images: int) -> str:
    """The number with its word, for a title."""
    return "1 image" if images == 1 else f"{images} images"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG. Folders are created.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written.
    """
    check_figure_file(path)
    with replacing(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], dpi=150)
