"""Similarity data as heat maps, with what a cache configuration would reuse."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from hart.evaluation.figures import (
    HATCHED,
    ORANGE,
    SITE_TITLES,
    VERMILLION,
    count_images,
    heat_map,
    matplotlib_module,
    new_figure,
)
from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.plan import Plan, is_eligible
from hart.modules.networks.caching.similarity_io import StoredSimilarity
from hart.modules.networks.caching.stages import format_stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

_REUSED = {"edgecolor": VERMILLION, "linewidth": 2.0}
_PASSED = {"edgecolor": ORANGE, "linewidth": 1.5, "linestyle": (0, (1.2, 1.2))}
_OPEN: dict[str, Any] = {
    "marker": "v", "color": VERMILLION, "markersize": 5, "linestyle": "none"
}  # fmt: skip


def plot_similarity(
    stored: StoredSimilarity, name: str, plan: Plan | None = None, plan_name: str = ""
) -> Figure:
    """Draw both tables side by side, layers as rows and transitions as columns.

    Args:
        stored: the tables and their schedule.
        name: what the title calls them, for example the file's name.
        plan: decisions from these tables; cells that it reuses, and cells above its threshold
            that it computes, are marked.
        plan_name: what the title calls the plan's configuration.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    schedule, tables = stored.schedule, stored.tables
    cells = {
        site: [[row[c] or math.nan for c in schedule.columns] for row in tables.site(site)]
        for site in SITES
    }
    values = [v for rows in cells.values() for row in rows for v in row if not math.isnan(v)]
    width = 2 * max(0.44 * schedule.num_transitions, 3.6) + 2.6
    title = _title_lines(stored, name, plan, plan_name, characters=int(width * 10))
    around = 0.22 * len(title) + (2.7 if plan else 2.0)
    figure = new_figure(width, max(0.29 * tables.depth, 1.8) + around)
    panels = figure.subplots(1, 2, sharey=True)
    # From the tenth below the smallest similarity, at least 0, to 1.
    least = min([*values, plan.config.threshold] if plan else values, default=0.0)
    least = max(0.0, math.floor(10 * least - 1e-9) / 10)
    colours = {"cmap": "Blues", "norm": matplotlib_module("colors").Normalize(least, 1.0)}
    labels = [f"{before}→{after}" for before, after in schedule.transitions]
    for axes, site in zip(panels, SITES, strict=True):
        heat_map(axes, cells[site], labels, "{:.2f}".format, edgecolors="white", **colours)
        axes.set_title(SITE_TITLES[site], pad=10, fontsize=11)
        axes.set_xlabel("transition (tokens of the stage before → of this stage)", fontsize=9)
        if plan is not None:
            _mark(axes, site, cells[site], plan)
    panels[0].set_ylabel("layer (transformer block)")
    figure.suptitle("\n".join(title), fontsize=11)
    mappable = matplotlib_module("cm").ScalarMappable(**colours)
    extend = "min" if min(values, default=1.0) < least else "neither"
    _label_colours(figure.colorbar(mappable, ax=panels, extend=extend, pad=0.015), plan)
    handles = _legend(plan, len(values) < 2 * tables.depth * schedule.num_transitions)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _mark(axes: Axes, site: str, rows: list[list[float]], plan: Plan) -> None:
    """Frame the cells that the plan reuses and those that only exceed its threshold."""
    rectangle = matplotlib_module("patches").Rectangle
    reused = 0
    for layer, row in enumerate(rows):
        for transition, value in enumerate(row):
            is_reused = plan.action(transition + 1, layer, site).reuse
            reused += is_reused
            if is_reused or value > plan.config.threshold:
                style = _REUSED if is_reused else _PASSED
                corner = (transition - 0.44, layer - 0.42)
                axes.add_patch(rectangle(corner, 0.88, 0.84, fill=False, **style))
    config, schedule = plan.config, plan.schedule
    columns = [
        si - 1
        for si in range(1, schedule.num_stages)
        if is_eligible(config, schedule, site, si)
        and schedule.lengths[si - 1] in (config.cache_stages or ())
    ]
    axes.plot(columns, [-0.72] * len(columns), clip_on=False, **_OPEN)
    cells = len(rows) * schedule.num_transitions
    axes.set_title(f"{SITE_TITLES[site]}: {reused} of {cells} outputs reused", pad=16, fontsize=11)


def _title_lines(
    stored: StoredSimilarity, name: str, plan: Plan | None, plan_name: str, characters: int
) -> list[str]:
    """What is shown, from where, and what the marks mean, in lines of that length."""
    images = stored.tables.images
    seen = f"mean over {count_images(images)}" if images else "number of images unknown"
    lines = [
        "Cosine similarity between a module's output and its interpolated output of the stage "
        "before",
        f"{name}: {stored.tables.depth} layers, {stored.schedule.num_transitions} transitions, "
        f"{seen}",
    ]
    if plan is not None:
        config = plan.config
        lines.append(
            f"marks: {plan_name}, may skip stages {format_stages(config.skip_stages or ())}, "
            f"threshold {config.threshold:g}"
        )
        if config.adaptive_threshold:
            lines.append(
                "adaptive: as for an image like the calibrated ones; "
                "layer 0 measures and always computes"
            )
        saves_otherwise = config.prunes_anything or config.guidance_stop_stage is not None
        start = "reuse saves nothing" if saves_otherwise else "nothing is reused"
        lines += [f"{start}: {reason}" for reason in plan.reasons]
    return [part for line in lines for part in textwrap.wrap(line, characters)]


def _label_colours(bar: Colorbar, plan: Plan | None) -> None:
    bar.set_label("cosine similarity (dimensionless,\n1 = same direction)")
    ticks = [tick / 10 for tick in range(round((bar.norm.vmin or 0.0) * 10), 11)]
    labels = [f"{tick:.1f}" for tick in ticks]
    if plan is not None:
        threshold = plan.config.threshold
        kept = [tick for tick in ticks if abs(tick - threshold) > 0.04]
        ticks = [*kept, threshold]
        labels = [f"{tick:.1f}" for tick in kept] + [f"{threshold:.2f} threshold"]
        bar.ax.axhline(threshold, color=VERMILLION, linewidth=2)
    bar.set_ticks(ticks, labels=labels)


def _legend(plan: Plan | None, some_unmeasured: bool) -> list:
    patch = matplotlib_module("patches").Patch
    handles = []
    if plan is not None:
        line = matplotlib_module("lines").Line2D
        handles = [
            patch(facecolor="none", label="reused: the output is not computed", **_REUSED),
            patch(facecolor="none", label="above the threshold, but computed", **_PASSED),
            line([], [], label="column that the configuration opens for reuse", **_OPEN),
        ]
    if some_unmeasured:
        handles.append(patch(label="not measured: always computed", **HATCHED))
    return handles
