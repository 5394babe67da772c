"""Similarity data as heat maps, with what a cache configuration would reuse."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hart.evaluation.figures import (
    GREY,
    ORANGE,
    VERMILLION,
    count_images,
    matplotlib_module,
    new_figure,
)
from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.plan import Plan, is_eligible
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_io import StoredSimilarity
from hart.modules.networks.caching.stages import StageSchedule, format_stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

SITE_TITLES = {"attn": "Attention", "mlp": "MLP"}

_COLOURS = "Blues"
_CELL_WIDTH, _CELL_HEIGHT, _LINE_HEIGHT = 0.44, 0.29, 0.22  # inches
_TEXT_POINTS = 6.5
_REUSED = {"edgecolor": VERMILLION, "linewidth": 2.0}
_PASSED = {"edgecolor": ORANGE, "linewidth": 1.5, "linestyle": (0, (1.2, 1.2))}
_OPEN = {"marker": "v", "color": VERMILLION, "markersize": 5, "linestyle": "none"}
_UNMEASURED = {"facecolor": "#EEEEEE", "edgecolor": GREY, "hatch": "////"}


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
    schedule, depth = stored.schedule, stored.tables.depth
    width = 2 * max(_CELL_WIDTH * schedule.num_transitions, 3.6) + 2.6
    title = _title_lines(stored, name, plan, plan_name, characters=int(width * 10))
    around = _LINE_HEIGHT * len(title) + (2.7 if plan else 2.0)
    figure = new_figure(width, max(_CELL_HEIGHT * depth, 1.8) + around)
    panels = figure.subplots(1, 2, sharey=True)
    colours = _colour_scale(stored.tables, schedule, plan)
    for axes, site in zip(panels, SITES, strict=True):
        _draw_site(axes, site, stored, colours)
        if plan is not None:
            _mark(axes, site, stored, plan)
    panels[0].set_ylabel("layer (transformer block)")
    figure.suptitle("\n".join(title), fontsize=11)
    mappable = matplotlib_module("cm").ScalarMappable(norm=colours, cmap=_COLOURS)
    below = any(0.0 != value < colours.vmin for _, _, value in _cells(stored, *SITES))
    bar = figure.colorbar(mappable, ax=panels, extend="min" if below else "neither", pad=0.015)
    _label_colours(bar, plan)
    handles = _legend(stored, plan)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _cells(stored: StoredSimilarity, *sites: str) -> Iterator[tuple[int, int, float]]:
    """Layer, transition and similarity of every entry."""
    for site in sites:
        for layer, row in enumerate(stored.tables.site(site)):
            for transition, column in enumerate(stored.schedule.columns):
                yield layer, transition, row[column]


def _colour_scale(tables: SimilarityTables, schedule: StageSchedule, plan: Plan | None):
    """From the tenth below the smallest similarity, at least 0, to 1."""
    values = [
        row[column]
        for site in SITES
        for row in tables.site(site)
        for column in schedule.columns
        if row[column] != 0.0
    ]
    if plan is not None:
        values.append(plan.config.threshold)
    least = max(0.0, math.floor(10 * min(values, default=0.0) - 1e-9) / 10)
    return matplotlib_module("colors").Normalize(least, 1.0)


def _draw_site(axes: Axes, site: str, stored: StoredSimilarity, colours) -> None:
    schedule, table = stored.schedule, stored.tables.site(site)
    values = [[row[column] or math.nan for column in schedule.columns] for row in table]
    edges = [i - 0.5 for i in range(schedule.num_transitions + 1)]
    rows = [i - 0.5 for i in range(len(table) + 1)]
    mesh = axes.pcolormesh(
        edges, rows, values, cmap=_COLOURS, norm=colours, edgecolors="white", linewidth=0.6
    )
    axes.patch.set(**_UNMEASURED)
    for layer, transition, value in _cells(stored, site):
        if value != 0.0:
            axes.text(
                transition,
                layer,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=_TEXT_POINTS,
                color=_text_colour(mesh.to_rgba(value)),
            )
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_title(SITE_TITLES[site], pad=10, fontsize=11)
    labels = [f"{before}→{after}" for before, after in schedule.transitions]
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    step = 1 if len(table) <= 32 else 4
    axes.set_yticks(range(0, len(table), step))
    axes.tick_params(labelsize=8, length=2, labelleft=True)
    axes.set_xlabel("transition (tokens of the stage before → of this stage)", fontsize=9)


def _text_colour(background: tuple[float, ...]) -> str:
    """Black or white, whichever stands out more; weights of the relative luminance of sRGB."""
    red, green, blue = (channel**2.2 for channel in background[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def _mark(axes: Axes, site: str, stored: StoredSimilarity, plan: Plan) -> None:
    """Frame the cells that the plan reuses and those that only exceed its threshold."""
    rectangle = matplotlib_module("patches").Rectangle
    reused = 0
    for layer, transition, value in _cells(stored, site):
        is_reused = plan.action(transition + 1, layer, site).reuse
        reused += is_reused
        if is_reused or value > plan.config.threshold:
            style = _REUSED if is_reused else _PASSED
            corner = (transition - 0.44, layer - 0.42)
            axes.add_patch(rectangle(corner, 0.88, 0.84, fill=False, **style))
    columns = _open_transitions(site, plan)
    axes.plot(columns, [-0.72] * len(columns), clip_on=False, **_OPEN)
    cells = stored.tables.depth * stored.schedule.num_transitions
    axes.set_title(f"{SITE_TITLES[site]}: {reused} of {cells} outputs reused", pad=16, fontsize=11)


def _open_transitions(site: str, plan: Plan) -> list[int]:
    """Transitions that the configuration lets ``site`` reuse, if the similarity allows."""
    lengths = plan.schedule.lengths
    return [
        si - 1
        for si in range(1, plan.schedule.num_stages)
        if is_eligible(plan.config, plan.schedule, site, si)
        and lengths[si - 1] in plan.config.cache_stages
    ]


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
            f"marks: {plan_name}, may skip stages {format_stages(config.skip_stages)}, "
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
    ticks = [tick / 10 for tick in range(round(bar.norm.vmin * 10), 11)]
    labels = [f"{tick:.1f}" for tick in ticks]
    if plan is not None:
        threshold = plan.config.threshold
        kept = [tick for tick in ticks if abs(tick - threshold) > 0.04]
        ticks = [*kept, threshold]
        labels = [f"{tick:.1f}" for tick in kept] + [f"{threshold:.2f} threshold"]
        bar.ax.axhline(threshold, color=VERMILLION, linewidth=2)
    bar.set_ticks(ticks, labels=labels)


def _legend(stored: StoredSimilarity, plan: Plan | None) -> list:
    patch = matplotlib_module("patches").Patch
    handles = []
    if plan is not None:
        line = matplotlib_module("lines").Line2D
        handles = [
            patch(facecolor="none", label="reused: the output is not computed", **_REUSED),
            patch(facecolor="none", label="above the threshold, but computed", **_PASSED),
            line([], [], label="column that the configuration opens for reuse", **_OPEN),
        ]
    if any(value == 0.0 for _, _, value in _cells(stored, *SITES)):
        handles.append(patch(label="not measured: always computed", **_UNMEASURED))
    return handles
