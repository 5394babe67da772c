"""Speed against quality of several configurations, as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hart.evaluation.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "oXsD^vP*<>hp"
_WIDTH, _HEIGHT = 9, 5  # inches


def speed_quality_plot(configurations: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Speedup of the whole image, with its spread, against SSIM to the images without caching.

    Args:
        configurations: finished entries of a comparison report, by name; at least one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(_WIDTH, _HEIGHT)
    axes = figure.add_subplot()
    for index, (name, entry) in enumerate(configurations.items()):
        _add_point(axes, index, name, entry)
    axes.axvline(1, color="0.6", linewidth=1, linestyle="--")
    axes.set_xlabel("speedup over no-cache, whole image (bars: 5th to 95th percentile)")
    axes.set_ylabel("SSIM to the no-cache images")
    axes.grid(alpha=0.3)
    axes.legend(title="speedup, SSIM", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def _add_point(axes: Axes, index: int, name: str, entry: Mapping[str, Any]) -> None:
    speed, ssim = entry["speedup"]["image"], entry["quality"]["ssim"]
    below, above = speed["median"] - speed["p5"], speed["p95"] - speed["median"]
    axes.errorbar(
        speed["median"],
        ssim,
        xerr=[[max(below, 0)], [max(above, 0)]],
        fmt=_MARKERS[index % len(_MARKERS)],
        color=f"C{index % 10}",
        markersize=8,
        alpha=0.85,
        capsize=3,
        label=f"{name}: {speed['median']:.2f}x, {ssim:.3f}",
    )
