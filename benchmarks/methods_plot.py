"""The comparison of methods as a plot: what each saves against what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hart.evaluation.figures import BLUE, ORANGE, VERMILLION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Entry = Mapping[str, Any]

# Family -> colour, marker. A configuration's family is the first one whose word is in its name.
FAMILIES = {
    "unguided": ("0.45", "s"),
    "kv ": ("#CC79A7", "D"),
    "hybrid": (VERMILLION, "^"),
    "fastvar": (ORANGE, "o"),
    "": (BLUE, "X"),
}
_WIDTH, _HEIGHT = 15, 7  # inches
_WIDTHS = (5, 5, 2.6)  # of the two plots and the key
_KEY_TOP, _KEY_LINE = 0.99, 0.027  # in the key's own height


def family(name: str) -> str:
    return next(word for word in FAMILIES if word in name)


def methods_plot(configurations: Mapping[str, Entry]) -> Figure:
    """Multiply-adds saved and transformer speedup against SSIM and attributes right.

    Every configuration is a numbered marker; the key beside the plots says what the numbers mean.

    Args:
        configurations: finished entries of a comparison report, by name; at least one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(_WIDTH, _HEIGHT)
    left, right, key = figure.subplots(1, 3, width_ratios=_WIDTHS)
    for number, (name, entry) in enumerate(_by_family(configurations), start=1):
        point = entry["quality"]["ssim"]
        _add(left, number, name, 100 * entry["multiply_adds_saved"], point)
        speed = entry["speedup"]["transformer"]["median"]
        _add(right, number, name, speed, 100 * entry["quality"].get("attribute_accuracy", point))
        _add_to_key(key, number, name)
    judged = any("attribute_accuracy" in e["quality"] for e in configurations.values())
    left.set_xlabel("multiply-adds of the transformer saved, %")
    left.set_ylabel("SSIM to the no-cache images")
    right.set_xlabel("speedup of the transformer over no-cache")
    right.set_ylabel("attributes right, %" if judged else "SSIM to the no-cache images, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    key.set_axis_off()
    return figure


def _by_family(configurations: Mapping[str, Entry]) -> list[tuple[str, Entry]]:
    order = [*reversed(FAMILIES)]
    return sorted(configurations.items(), key=lambda item: order.index(family(item[0])))


def _add(axes: Axes, number: int, name: str, x: float, y: float) -> None:
    colour, marker = FAMILIES[family(name)]
    axes.plot(x, y, marker, color=colour, markersize=7, alpha=0.85)
    axes.annotate(str(number), (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8)


def _add_to_key(axes: Axes, number: int, name: str) -> None:
    height = _KEY_TOP - (number - 1) * _KEY_LINE
    colour, marker = FAMILIES[family(name)]
    where = {"transform": axes.transAxes, "clip_on": False}
    axes.plot(0.02, height, marker, color=colour, markersize=6, **where)
    axes.text(0.08, height, f"{number}  {name}", fontsize=8, va="center", **where)
