"""Figures that need no display, and their files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from hart.evaluation.extras import import_extra
from hart.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")

# Okabe and Ito's palette, which people with any colour vision can tell apart.
BLUE, ORANGE, VERMILLION, GREY = "#0072B2", "#E69F00", "#D55E00", "#BBBBBB"

_DPI = 150


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


def check_figure_file(path: Path) -> None:
    """Refuse a file that :func:`save_figure` could not write.

    Raises:
        ValueError: its suffix is not one of :data:`SUFFIXES`.
    """
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
        figure.savefig(beside, format=path.suffix[1:], dpi=_DPI)
