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
LABELS = {"kv ": "keys of what is not computed", "": "reuse", "unguided": "unguided last stages"}
_WIDTH, _HEIGHT = 13, 6  # inches


def family(name: str) -> str:
    return next(word for word in FAMILIES if word in name)


def methods_plot(configurations: Mapping[str, Entry]) -> Figure:
    """Multiply-adds saved and transformer speedup against SSIM and attributes right.

    Args:
        configurations: finished entries of a comparison report, by name; at least one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(_WIDTH, _HEIGHT)
    left, right = figure.subplots(1, 2)
    for name, entry in configurations.items():
        point = entry["quality"]["ssim"]
        _add(left, name, 100 * entry["multiply_adds_saved"], point)
        speed = entry["speedup"]["transformer"]["median"]
        _add(right, name, speed, 100 * entry["quality"].get("attribute_accuracy", point))
    judged = any("attribute_accuracy" in e["quality"] for e in configurations.values())
    left.set_xlabel("multiply-adds of the transformer saved, %")
    left.set_ylabel("SSIM to the no-cache images")
    right.set_xlabel("speedup of the transformer over no-cache")
    right.set_ylabel("attributes right, %" if judged else "SSIM to the no-cache images, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _add_legend(left, configurations)
    return figure


def _add(axes: Axes, name: str, x: float, y: float) -> None:
    colour, marker = FAMILIES[family(name)]
    axes.plot(x, y, marker, color=colour, markersize=7, alpha=0.85)
    axes.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6)


def _add_legend(axes: Axes, configurations: Mapping[str, Entry]) -> None:
    present = {family(name) for name in configurations}
    for word, (colour, marker) in FAMILIES.items():
        if word in present:
            axes.plot([], [], marker, color=colour, label=LABELS.get(word, word))
    axes.legend(loc="lower left", frameon=False)
