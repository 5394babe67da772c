"""The comparison of methods as a plot: what each saves against what it changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hart.evaluation.figures import BLUE, ORANGE, VERMILLION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Entry = Mapping[str, Any]


class Quantity(NamedTuple):
    """Where in an entry a number stands, what it is, and the factor that makes it its unit."""

    path: tuple[str, ...]
    title: str
    scale: float = 1.0

    def of(self, entry: Entry) -> float:
        found: Any = reduce(getitem, self.path, entry)
        return self.scale * found


# Family -> colour, marker. A configuration's family is the first one whose word is in its name.
FAMILIES = {
    "unguided": ("0.45", "s"),
    "kv ": ("#CC79A7", "D"),
    "hybrid": (VERMILLION, "^"),
    "fastvar": (ORANGE, "o"),
    "": (BLUE, "X"),
}

SAVED = Quantity(("multiply_adds_saved",), "multiply-adds of the transformer saved, %", 100)
SPEEDUP = Quantity(("speedup", "image", "median"), "speedup of the whole image over no-cache")
STAGES_SPEEDUP = Quantity(
    ("speedup", "transformer", "median"), "speedup of the transformer over no-cache"
)
LIKENESS = Quantity(("quality", "ssim"), "SSIM to the no-cache images")
ATTRIBUTES = Quantity(("quality", "attribute_accuracy"), "attributes right, %", 100)
MEMORY = Quantity(
    ("memory", "relative"), "weights, keys, values and stored outputs, % of no-cache", 100
)
JUDGED = ((SAVED, LIKENESS), (STAGES_SPEEDUP, ATTRIBUTES))
TIMED = ((SAVED, SPEEDUP), (SPEEDUP, MEMORY))

_WIDTH, _HEIGHT = 15, 7  # inches
_WIDTHS = (5, 5, 2.6)  # of the two plots and the key
_MARKER = 7  # points, as the following
_NEAR, _ROOM = 10, (11, 8)  # within which two numbers, or a number and a marker, meet
_PLACES = [
    (far * math.cos(turn * math.pi / 6), far * math.sin(turn * math.pi / 6))
    for far in (_NEAR, 16, 23, 30)
    for turn in (1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
]
_KEY_TOP, _KEY_LINE = 0.99, 0.027  # in the key's own height


def family(name: str) -> str:
    return next(word for word in FAMILIES if word in name)


def methods_plot(configurations: Mapping[str, Entry]) -> Figure:
    """What every configuration saves against what it changes, or against the memory it takes.

    With attributes read back: multiply-adds saved against SSIM, and the transformer's speedup
    against attributes right. Without, the pictures mean nothing: multiply-adds saved and memory
    against the speedup of the whole image. Every configuration is a numbered marker; the key
    beside the plots says what the numbers mean.

    Args:
        configurations: finished entries of a comparison report, by name; at least one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(_WIDTH, _HEIGHT)
    *plots, key = figure.subplots(1, 3, width_ratios=_WIDTHS)
    ordered = _by_family(configurations)
    judged = any("attribute_accuracy" in entry["quality"] for _, entry in ordered)
    for axes, (across, up) in zip(plots, JUDGED if judged else TIMED, strict=True):
        for name, entry in ordered:
            _mark(axes, name, across.of(entry), up.of(entry))
        axes.set_xlabel(across.title)
        axes.set_ylabel(up.title)
        axes.grid(alpha=0.3)
    key.set_axis_off()
    for number, (name, _) in enumerate(ordered, start=1):
        _add_to_key(key, number, name)
    figure.draw_without_rendering()  # fixes where in the picture a point lies
    for axes in plots:
        _number(axes)
    return figure


def _by_family(configurations: Mapping[str, Entry]) -> list[tuple[str, Entry]]:
    order = [*reversed(FAMILIES)]
    return sorted(configurations.items(), key=lambda item: order.index(family(item[0])))


def _mark(axes: Axes, name: str, x: float, y: float) -> None:
    colour, marker = FAMILIES[family(name)]
    axes.plot(x, y, marker, color=colour, markersize=_MARKER, alpha=0.85)


def _number(axes: Axes) -> None:
    """Number the markers in their order, each where it meets the fewest markers and numbers."""
    marks: Any = [np.asarray(line.get_xydata())[0] for line in axes.get_lines()]
    points = axes.transData.transform(marks)
    pixel = axes.figure.dpi / 72
    taken = points
    for number, (mark, point) in enumerate(zip(marks, points, strict=True), start=1):
        crowds = [np.abs(taken - point - pixel * np.array(at)) / pixel < _ROOM for at in _PLACES]
        place = _PLACES[int(np.argmin([crowd.all(axis=1).sum() for crowd in crowds]))]
        taken = np.vstack((taken, point + pixel * np.array(place)))
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            str(number),
            mark,
            xytext=place,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            arrowprops=line if max(map(abs, place)) > _NEAR else None,
        )


def _add_to_key(axes: Axes, number: int, name: str) -> None:
    height = _KEY_TOP - (number - 1) * _KEY_LINE
    colour, marker = FAMILIES[family(name)]
    where: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    axes.plot(0.02, height, marker, color=colour, markersize=6, **where)
    axes.text(0.08, height, f"{number}  {name}", fontsize=8, va="center", **where)
