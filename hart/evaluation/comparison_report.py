"""A comparison as JSON, as a Markdown table, and as labels of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hart.evaluation.comparison import Comparison, ConfigurationResult
from hart.evaluation.memory import held_bytes
from hart.evaluation.timing import seconds_by_part, speedups, spread
from hart.pipeline import HARTPipeline

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
    on_device = comparison.reference.device_bytes is not None
    entries = {
        name: _entry(result, comparison, pipeline, batch_size, with_parts)
        for name, result in comparison.results.items()
    }
    return {
        "complete": comparison.complete,
        "images": len(comparison.prompts),
        "memory_is": DEVICE_MEMORY if on_device else HELD_MEMORY,
        "configurations": entries,
    }


def _entry(
    result: ConfigurationResult,
    comparison: Comparison,
    pipeline: HARTPipeline,
    batch_size: int,
    with_parts: bool,
) -> Entry:
    if result.failure is not None:
        return {"status": "failed", "reason": result.failure}
    rounds = comparison.reference.seconds
    image = speedups(rounds, result.seconds, lambda run: run.total_s)
    if not image:
        return {"status": "not finished"}
    transformer = speedups(rounds, result.seconds, lambda run: run.transformer_s)
    entry = {
        "status": "ok",
        "cache_config": result.config.to_dict(),
        "rounds": len(image),
        "seconds_per_image": spread([run.total_s for run in result.seconds.values()]),
        "speedup": {"image": spread(image), "transformer": spread(transformer)},
        "multiply_adds_saved": result.statistics["saved_share"],
        "multiply_adds_saved_by": result.statistics["saved_share_by"],
        "memory": _memory(result, comparison.reference, pipeline, batch_size),
        "quality": result.quality,
        "cache_statistics": result.statistics,
    }
    if with_parts:
        lengths = pipeline.model.schedule.lengths
        entry["seconds_by_part"] = seconds_by_part(list(result.seconds.values()), lengths)
    return entry


def _memory(
    result: ConfigurationResult,
    reference: ConfigurationResult,
    pipeline: HARTPipeline,
    batch_size: int,
) -> Entry:
    held, held_by_reference = (
        held_bytes(pipeline, batch_size, each.statistics) for each in (result, reference)
    )
    if result.device_bytes is not None:
        ratio = result.device_bytes / reference.device_bytes
    else:
        ratio = sum(held.values()) / sum(held_by_reference.values())
    return {"relative": ratio, "device_peak_bytes": result.device_bytes, "held_bytes": held}


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
_OPTIONAL_COLUMNS: dict[str, tuple[str, str]] = {
    "LPIPS": ("lpips", ".4f"),
    "FID": ("fid", ".2f"),
    "CLIP score": ("clip_score", ".2f"),
    "attributes right": ("attribute_accuracy", ".1%"),
}


def markdown_table(report: Mapping[str, Any]) -> str:
    """The comparison as a Markdown table with notes below it."""
    entries: dict[str, Entry] = report["configurations"]
    finished = {name: e for name, e in entries.items() if e["status"] == "ok"}
    optional = {
        title: key_and_format
        for title, key_and_format in _OPTIONAL_COLUMNS.items()
        if any(key_and_format[0] in e["quality"] for e in finished.values())
    }
    titles = ["configuration", *_COLUMNS, *optional]
    rows = [titles, ["---"] * len(titles)]
    for name, entry in finished.items():
        extra = [f"{entry['quality'][key]:{form}}" for key, form in optional.values()]
        rows.append([name, *(column(entry) for column in _COLUMNS.values()), *extra])
    lines = ["| " + " | ".join(row) + " |" for row in rows] if finished else []
    lines += [""] + [
        f"{name}: {entry['status']}" + (f" ({entry['reason']})" if "reason" in entry else "")
        for name, entry in entries.items()
        if entry["status"] != "ok"
    ]
    return "\n".join([*lines, "", *_notes(report)]).strip() + "\n"


def _notes(report: Mapping[str, Any]) -> list[str]:
    return [
        f"{report['images']} images. Speedup: median of the ratios to no-cache within a round, "
        "5th to 95th percentile in brackets; of the whole image and of the transformer's stages "
        "alone.",
        f"Memory relative to no-cache: {report['memory_is']}.",
        "PSNR and SSIM: against the images of no-cache with the same seeds.",
    ]


def _range(values: Mapping[str, float]) -> str:
    return f"{values['median']:.2f}x ({values['p5']:.2f} to {values['p95']:.2f})"


def _psnr(psnr_db: float | None) -> str:
    """``equal`` for pictures without any difference, whose PSNR is infinite."""
    return "equal" if psnr_db is None else f"{psnr_db:.2f}"
