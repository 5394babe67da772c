"""What a run reused and how long its stages took: read from the files that runs leave, as bars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hart.evaluation.figures import BLUE, GREY, ORANGE, SITE_TITLES, count_images, new_figure
from hart.modules.networks.caching.config import SITES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KNOWN_DOCUMENTS = (
    "generation_results.json, benchmark_results.json or the output of get_cache_statistics()"
)
RESIDUAL = "residual"
"""Name of the residual diffusion head among the parts that are timed."""

MAX_NUMBER = 10**15
"""Largest count or duration that is believed."""


class StageCalls(NamedTuple):
    """Module calls of one site at one stage.

    ``not_eligible`` are those of the computed calls that could not reuse whatever the similarity.
    """

    reused: float
    computed: float
    not_eligible: float

    @property
    def total(self) -> float:
        return self.reused + self.computed


@dataclass(frozen=True)
class RunStatistics:
    """A run's reuse and time per stage.

    Attributes:
        stages: token counts, ascending.
        calls: site -> one entry per stage, the module calls of one image.
        seconds: name of the part -> seconds: the stages, and ``residual`` if it was timed. Empty
            if the file has no times.
        seconds_are: what ``seconds`` are, for an axis.
        images: number of images, None if the file does not say.
    """

    stages: tuple[int, ...]
    calls: dict[str, tuple[StageCalls, ...]]
    seconds: dict[str, float]
    seconds_are: str
    images: int | None

    @property
    def has_calls(self) -> bool:
        return any(stage.total for stages in self.calls.values() for stage in stages)


# --- reading ----------------------------------------------------------------------------------

_Numbers = dict[tuple[str, ...], float]
"""(stage, site, kind) -> calls."""


def read_run_statistics(document: object) -> RunStatistics:
    """Understand one of the documents that tell about a run.

    Args:
        document: parsed JSON of ``hart generate`` (with or without ``--benchmark``), or what
            ``get_cache_statistics()`` returns.

    Raises:
        ValueError: it is none of them, or a value in it is not what it should be.
    """
    if isinstance(document, Mapping):
        if isinstance(document.get("stages"), Mapping):
            images = _number(document.get("images", 0), "images")
            seconds = _mean([_seconds(document.get("seconds", {}), "seconds")], images or 1)
            return _run(_calls(document["stages"], "stages"), seconds, "mean", images)
        statistics = document.get("cache_statistics")
        if isinstance(statistics, Mapping):
            spreads = document.get("seconds_per_image") or {}
            seconds = _seconds(spreads, "seconds_per_image", _median)
            images = _number(statistics.get("images", 0), "images")
            calls = _calls(statistics.get("stages", {}), "stages")
            return _run(calls, seconds, "median of the runs", images)
        if isinstance(document.get("images"), list):
            return _from_images(document["images"])
    raise ValueError(f"expected {KNOWN_DOCUMENTS}")


def _from_images(entries: Sequence[Any]) -> RunStatistics:
    if not entries:
        raise ValueError("images is empty: the run finished none")
    calls, seconds = [], []
    for index, entry in enumerate(entries):
        where = f"images[{index}]"
        entry = _mapping(entry, where)
        calls.append(_calls(entry.get("modules", {}), f"{where}: modules"))
        seconds.append(_seconds(entry.get("seconds", {}), f"{where}: seconds"))
    images = len(entries)
    return _run(_mean(calls, images), _mean(seconds, images), "mean", images)


def _mean(parts: Iterable[Mapping[Any, float]], count: float) -> dict[Any, float]:
    total: dict[Any, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + value
    return {key: value / count for key, value in total.items()}


def _run(calls: _Numbers, seconds: dict[str, float], average: str, images: float) -> RunStatistics:
    names = {key[0] for key in calls} | seconds.keys() - {RESIDUAL}
    stages = tuple(sorted(map(int, names)))
    if not stages:
        raise ValueError("there is no stage in this document")
    by_site = {
        site: tuple(
            StageCalls(*(calls.get((str(stage), site, kind), 0) for kind in StageCalls._fields))
            for stage in stages
        )
        for site in SITES
    }
    timed = seconds if any(seconds.values()) else {}
    return RunStatistics(
        stages, by_site, timed, f"seconds per image ({average})", int(images) or None
    )


def _calls(stages: object, where: str) -> _Numbers:
    calls: _Numbers = {}
    for stage, sites in _mapping(stages, where).items():
        sites = _mapping(sites, f"{where}: {_stage(stage, where)}")
        for site in SITES:
            place = f"{where}: {stage}: {site}"
            counts = _mapping(sites.get(site), place)
            numbers = [_number(counts.get(k), f"{place}: {k}") for k in StageCalls._fields]
            _, computed, not_eligible = numbers
            if not_eligible > computed:
                raise ValueError(
                    f"{place}: not_eligible must be at most computed, found {not_eligible:g} "
                    f"and {computed:g}"
                )
            calls |= {(stage, site, k): n for k, n in zip(StageCalls._fields, numbers, strict=True)}
    return calls


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: expected a number, found a {type(value).__name__}")
    if not 0 <= value <= MAX_NUMBER:  # false for NaN
        raise ValueError(f"{where}: expected a number from 0, found {value!r:.40}")
    return value


def _median(spread: object, where: str) -> float:
    return _number(_mapping(spread, where).get("median"), where)


def _seconds(
    parts: object, where: str, read: Callable[[object, str], float] = _number
) -> dict[str, float]:
    """Seconds of the stages, and of the residual diffusion head if it was timed."""
    parts = _mapping(parts, where)
    stages = _mapping(parts.get("stages", {}), f"{where}: stages")
    seconds = {_stage(stage, where): read(s, f"{where}: {stage}") for stage, s in stages.items()}
    if parts.get(RESIDUAL) is not None:
        seconds[RESIDUAL] = read(parts[RESIDUAL], f"{where}: {RESIDUAL}")
    return seconds


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected an object, found a {type(value).__name__}")
    return value


def _stage(name: object, where: str) -> str:
    if not (isinstance(name, str) and name.isascii() and name.isdigit() and len(name) <= 9):
        raise ValueError(f"{where}: expected a stage's token count, found {name!r:.40}")
    return name


# --- drawing ----------------------------------------------------------------------------------

_BARS: tuple[tuple[str, dict[str, Any], Callable[[StageCalls], float]], ...] = (
    ("reused", {"facecolor": BLUE, "edgecolor": "white"}, lambda s: s.reused),
    (
        "computed: too dissimilar, or nothing stored",
        {"facecolor": ORANGE, "edgecolor": "white", "hatch": ".."},
        lambda s: s.computed - s.not_eligible,
    ),
    (
        "computed: the configuration does not allow reuse",
        {"facecolor": GREY, "edgecolor": "white", "hatch": "//"},
        lambda s: s.not_eligible,
    ),
)


def plot_statistics(statistics: RunStatistics, name: str) -> Figure:
    """Draw one panel per site with shares of the module calls, and one with the seconds.

    Args:
        statistics: of one run.
        name: what the title calls it, for example the file's name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels = len(SITES) + bool(statistics.seconds)
    figure = new_figure(4.6 * panels, 4.9)
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
    share = sum(stage.reused for stage in stages) / calls
    title = f"{SITE_TITLES[site]}: {share:.1%} of {calls:.0f} module calls reused"
    axes.set_title(title, fontsize=11)
    below = [0.0] * len(stages)
    for label, style, part in _BARS:
        heights = [100 * part(stage) / stage.total if stage.total else 0.0 for stage in stages]
        bars = axes.bar(range(len(stages)), heights, bottom=below, label=label, **style)
        if label == "reused":
            shares = [f"{height:.0f}%" if height else "" for height in heights]
            for bar, text in zip(bars, shares, strict=True):
                axes.text(bar.get_x() + 0.4, 101, text, ha="center", fontsize=7, color=BLUE)
        below = [a + b for a, b in zip(below, heights, strict=True)]


def _draw_seconds(axes: Axes, statistics: RunStatistics) -> None:
    names = [*map(str, statistics.stages), *({RESIDUAL} & statistics.seconds.keys())]
    seconds = [statistics.seconds.get(name, 0.0) for name in names]
    _label_stages(axes, ["residual diffusion" if n == RESIDUAL else n for n in names])
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
