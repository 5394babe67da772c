"""A comparison as JSON, as a Markdown table, and as a plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hart.evaluation.comparison import Comparison, ConfigurationResult
from hart.evaluation.figures import new_figure
from hart.evaluation.memory import held_bytes
from hart.evaluation.timing import seconds_by_part, speedups, spread
from hart.pipeline import HARTPipeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Entry = dict[str, Any]

DEVICE_MEMORY = "peak memory allocated on the device during a run"
HELD_MEMORY = (
    "weights, keys and values, and stored outputs, which outlive a stage; each at its peak"
)


def comparison_report(
    comparison: Comparison, pipeline: HARTPipeline, batch_size: int, with_parts: bool = False
) -> dict[str, Any]:
    """The measurements as JSON-able values.

    Args:
        pipeline: what was compared on.
        batch_size: images drawn at the same time.
        with_parts: add the spread of every part's seconds.

    Returns:
        ``complete``, ``images``, ``memory_is`` (what the memory ratios compare) and
        ``configurations``: by name ``status`` ``"ok"``, ``"failed"`` with a ``reason`` or
        ``"not finished"``, and the measurements.
    """
    reference, lengths = comparison.reference, pipeline.model.schedule.lengths

    def held(result: ConfigurationResult) -> dict[str, int]:
        return held_bytes(pipeline, batch_size, result.statistics or {})

    def entry(result: ConfigurationResult) -> Entry:
        if result.failure is not None:
            return {"status": "failed", "reason": result.failure}
        image = speedups(reference.seconds, result.seconds, lambda run: run.total_s)
        if not image or result.config is None or result.statistics is None:
            return {"status": "not finished"}
        transformer = speedups(reference.seconds, result.seconds, lambda run: run.transformer_s)
        own, runs = held(result), list(result.seconds.values())
        if result.device_bytes is not None and reference.device_bytes is not None:
            relative = result.device_bytes / reference.device_bytes
        else:
            relative = sum(own.values()) / sum(held(reference).values())
        peak = result.device_bytes
        memory = {"relative": relative, "device_peak_bytes": peak, "held_bytes": own}
        return {
            "status": "ok",
            "cache_config": result.config.to_dict(),
            "rounds": len(image),
            "seconds_per_image": spread([run.total_s for run in runs]),
            "speedup": {"image": spread(image), "transformer": spread(transformer)},
            "multiply_adds_saved": result.statistics["saved_share"],
            "multiply_adds_saved_by": result.statistics["saved_share_by"],
            "memory": memory,
            "quality": result.quality,
            "cache_statistics": result.statistics,
            **({"seconds_by_part": seconds_by_part(runs, lengths)} if with_parts else {}),
        }

    return {
        "complete": comparison.complete,
        "images": len(comparison.prompts),
        "memory_is": HELD_MEMORY if reference.device_bytes is None else DEVICE_MEMORY,
        "configurations": {name: entry(result) for name, result in comparison.results.items()},
    }


# --- for people -------------------------------------------------------------------------------

_COLUMNS: dict[str, Callable[[Entry], str]] = {
    "speedup": lambda e: _range(e["speedup"]["image"]),
    "transformer": lambda e: _range(e["speedup"]["transformer"]),
    "s per image": lambda e: f"{e['seconds_per_image']['median']:.3g}",
    "multiply-adds saved": lambda e: f"{e['multiply_adds_saved']:.1%}",
    "memory": lambda e: f"{e['memory']['relative']:.1%}",
    "PSNR (dB)": lambda e: _psnr(e["quality"]["psnr_db"]),
    "SSIM": lambda e: f"{e['quality']['ssim']:.4f}",
}
_OPTIONAL_COLUMNS = {
    "LPIPS": ("lpips", ".4f"),
    "FID": ("fid", ".2f"),
    "CLIP score": ("clip_score", ".2f"),
    "attributes right": ("attribute_accuracy", ".1%"),
}


def finished(report: Mapping[str, Any]) -> dict[str, Entry]:
    """The entries of a report that have measurements, by name."""
    return {n: e for n, e in report["configurations"].items() if e["status"] == "ok"}


def table_lines(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]


def markdown_table(report: Mapping[str, Any]) -> str:
    """The comparison as a Markdown table with notes below it."""
    entries = finished(report)
    optional = {
        title: (key, form)
        for title, (key, form) in _OPTIONAL_COLUMNS.items()
        if any(key in entry["quality"] for entry in entries.values())
    }
    rows = [
        [
            name,
            *(column(entry) for column in _COLUMNS.values()),
            *(f"{entry['quality'][key]:{form}}" for key, form in optional.values()),
        ]
        for name, entry in entries.items()
    ]
    titles = ["configuration", *_COLUMNS, *optional]
    lines = [*(table_lines(titles, rows) if rows else ()), ""]
    for name, entry in report["configurations"].items():
        if entry["status"] != "ok":
            reason = f" ({entry['reason']})" if "reason" in entry else ""
            lines.append(f"{name}: {entry['status']}{reason}")
    lines += [
        "",
        f"{report['images']} images. Speedup: median of the ratios to no-cache within a round, "
        "5th to 95th percentile in brackets; of the whole image and of the transformer's stages "
        "alone.",
        f"Memory relative to no-cache: {report['memory_is']}.",
        "PSNR and SSIM: against the images of no-cache with the same seeds.",
    ]
    return "\n".join(lines).strip() + "\n"


def _range(values: Mapping[str, float]) -> str:
    return f"{values['median']:.2f}x ({values['p5']:.2f} to {values['p95']:.2f})"


def _psnr(psnr_db: float | None) -> str:
    """``equal`` for pictures without any difference, whose PSNR is infinite."""
    return "equal" if psnr_db is None else f"{psnr_db:.2f}"


def speed_quality_plot(configurations: Mapping[str, Entry]) -> Figure:
    """Speedup of the whole image, with its spread, against SSIM to the images without caching.

    Args:
        configurations: see :func:`finished`; at least one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    for index, (name, entry) in enumerate(configurations.items()):
        speed, ssim = entry["speedup"]["image"], entry["quality"]["ssim"]
        median = speed["median"]
        axes.errorbar(
            median,
            ssim,
            xerr=[[max(median - speed["p5"], 0)], [max(speed["p95"] - median, 0)]],
            fmt="oXsD^vP*<>hp"[index % 12],
            color=f"C{index % 10}",
            markersize=8,
            alpha=0.85,
            capsize=3,
            label=f"{name}: {median:.2f}x, {ssim:.3f}",
        )
    axes.axvline(1, color="0.6", linewidth=1, linestyle="--")
    axes.set_xlabel("speedup over no-cache, whole image (bars: 5th to 95th percentile)")
    axes.set_ylabel("SSIM to the no-cache images")
    axes.grid(alpha=0.3)
    axes.legend(title="speedup, SSIM", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure
