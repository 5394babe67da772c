"""What a run reused at every stage and how long the stages took, as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.evaluation.figures import BLUE, GREY, ORANGE, count_images, new_figure
from hart.evaluation.run_statistics import RESIDUAL, RunStatistics, StageCalls
from hart.evaluation.similarity_plot import SITE_TITLES
from hart.modules.networks.caching.config import SITES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_WIDTH, _HEIGHT = 4.6, 4.9  # inches
_REUSED = {"facecolor": BLUE, "edgecolor": "white", "label": "reused"}
_COMPUTED = {
    "facecolor": ORANGE,
    "edgecolor": "white",
    "hatch": "..",
    "label": "computed: too dissimilar, or nothing stored",
}
_NOT_ELIGIBLE = {
    "facecolor": GREY,
    "edgecolor": "white",
    "hatch": "//",
    "label": "computed: the configuration does not allow reuse",
}


def plot_statistics(statistics: RunStatistics, name: str) -> Figure:
    """Draw one panel per site with shares of the module calls, and one with the seconds.

    Args:
        statistics: of one run.
        name: what the title calls it, for example the file's name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels = len(SITES) + bool(statistics.seconds)
    figure = new_figure(_PANEL_WIDTH * panels, _HEIGHT)
    axes_row = figure.subplots(1, panels, squeeze=False)[0]
    for axes, site in zip(axes_row, SITES, strict=False):
        _draw_site(axes, statistics, site)
    if statistics.seconds:
        _draw_seconds(axes_row[-1], statistics)
    images = f", {count_images(statistics.images)}" if statistics.images else ""
    figure.suptitle(f"What feature caching did at each stage\n{name}{images}", fontsize=11)
    if statistics.has_calls:
        handles, labels = axes_row[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_site(axes: Axes, statistics: RunStatistics, site: str) -> None:
    stages = statistics.calls[site]
    _label_stages(axes, [str(stage) for stage in statistics.stages])
    axes.set_ylabel("share of module calls (%)")
    axes.set_ylim(0, 108)
    calls = sum(stage.total for stage in stages)
    if not calls:
        axes.set_title(SITE_TITLES[site], fontsize=11)
        axes.text(0.5, 0.5, "no module calls were counted", transform=axes.transAxes, ha="center")
        return
    reused = sum(stage.reused for stage in stages)
    axes.set_title(
        f"{SITE_TITLES[site]}: {reused / calls:.1%} of {calls:.0f} module calls reused", fontsize=11
    )
    _stack(axes, stages)


def _stack(axes: Axes, stages: tuple[StageCalls, ...]) -> None:
    positions = range(len(stages))
    known = all(stage.not_eligible is not None for stage in stages if stage.total)
    not_eligible = [_percent(stage.not_eligible or 0, stage) if known else 0.0 for stage in stages]
    reused = [_percent(stage.reused, stage) for stage in stages]
    computed = [
        _percent(stage.computed, stage) - share
        for stage, share in zip(stages, not_eligible, strict=True)
    ]
    axes.bar(positions, reused, **_REUSED)
    style = _COMPUTED if known else {**_COMPUTED, "label": "computed"}
    axes.bar(positions, computed, bottom=reused, **style)
    if known:
        below = [a + b for a, b in zip(reused, computed, strict=True)]
        axes.bar(positions, not_eligible, bottom=below, **_NOT_ELIGIBLE)
    for position, share in zip(positions, reused, strict=True):
        if share:
            axes.text(position, 101, f"{share:.0f}%", ha="center", fontsize=7, color=BLUE)


def _percent(part: float, stage: StageCalls) -> float:
    return 100 * part / stage.total if stage.total else 0.0


def _draw_seconds(axes: Axes, statistics: RunStatistics) -> None:
    seconds = [statistics.seconds.get(str(stage), 0.0) for stage in statistics.stages]
    names = [str(stage) for stage in statistics.stages]
    if RESIDUAL in statistics.seconds:
        seconds.append(statistics.seconds[RESIDUAL])
        names.append("residual diffusion")
    _label_stages(axes, names)
    bars = axes.bar(range(len(seconds)), seconds, color="#555555")
    labels = [f"{part_s:.2g}" for part_s in seconds]
    axes.bar_label(bars, labels, fontsize=7, padding=3, rotation=90)
    axes.margins(y=0.12)
    axes.set_ylabel(statistics.seconds_are)
    axes.set_title(f"Time: {sum(seconds):.3g} s in these stages", fontsize=11)


def _label_stages(axes: Axes, names: list[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(labelsize=8)
    axes.set_xlabel("stage (tokens of its map)")
    axes.spines[["top", "right"]].set_visible(False)
