"""A benchmark as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hart.evaluation.benchmark import Benchmark
from hart.evaluation.random_weights import has_text_encoder
from hart.evaluation.savings import savings_text
from hart.evaluation.timing import seconds_by_part, speedups, spread
from hart.pipeline import HARTPipeline

WITH_TEXT_ENCODER = "text encoder"
WITHOUT_TEXT_ENCODER = "random features or classes: there is no text encoder and no time for one"


def benchmark_report(benchmark: Benchmark, pipeline: HARTPipeline) -> dict[str, Any]:
    """The measurements as JSON-able values; None where no measured run was finished."""
    runs = benchmark.runs
    seconds = seconds_by_part(runs, pipeline.model.schedule.lengths) if runs else None
    return {
        "complete": benchmark.complete,
        "runs": len(runs),
        "images_per_run": len(benchmark.images),
        "text_encoding": (
            WITH_TEXT_ENCODER if has_text_encoder(pipeline) else WITHOUT_TEXT_ENCODER
        ),
        "seconds_per_image": seconds,
        "images_per_second": 1 / seconds["total"]["median"] if seconds else None,
        "over_no_cache": _over_no_cache(benchmark),
        "memory": benchmark.memory,
        "cache_statistics": benchmark.statistics,
    }


def _over_no_cache(benchmark: Benchmark) -> dict[str, Any] | None:
    """How many times as fast as without caching in the same round; None if that was not drawn."""
    if not benchmark.without_caching:
        return None
    rounds = [dict(enumerate(runs)) for runs in (benchmark.without_caching, benchmark.runs)]
    without = [run.total_s for run in benchmark.without_caching]
    return {
        "image": spread(speedups(*rounds, lambda run: run.total_s)),
        "transformer": spread(speedups(*rounds, lambda run: run.transformer_s)),
        "seconds_per_image_without_caching": spread(without),
    }


def benchmark_lines(report: Mapping[str, Any], name: str) -> list[str]:
    """The measurements as a table for people; ``name`` is the configuration's."""
    seconds = report["seconds_per_image"]
    if seconds is None:
        return ["no measured run was finished"]
    total = seconds["total"]["median"]
    lines = [f"{name}: {savings_text(report['cache_statistics'])}"]
    lines += [f"{'seconds per image':<20}{'median':>10}{'p5':>10}{'p95':>10}{'share':>8}"]
    for name, part in _parts(seconds):
        if part is None:
            lines.append(f"{name:<20}{'none':>10}")
            continue
        numbers = "".join(f"{part[key]:>10.4f}" for key in ("median", "p5", "p95"))
        lines.append(f"{name:<20}{numbers}{part['median'] / total:>8.1%}")
    lines.append(
        f"{report['images_per_second']:.3g} images per second; "
        f"{report['runs']} runs of {report['images_per_run']} images"
    )
    return [*lines, *_speedup_lines(report["over_no_cache"]), *_memory_lines(report["memory"])]


def _speedup_lines(over: Mapping[str, Any] | None) -> list[str]:
    if over is None:
        return []
    image, transformer = over["image"], over["transformer"]
    return [
        f"{image['median']:.2f} times as fast as no-cache ({image['p5']:.2f} to "
        f"{image['p95']:.2f}), the transformer {transformer['median']:.2f} times; drawn in turns "
        f"in this run, no-cache {over['seconds_per_image_without_caching']['median']:.4f} s per "
        "image"
    ]


def _parts(seconds: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float] | None]]:
    yield "text encoding", seconds["text"]
    for length, part in seconds["stages"].items():
        yield f"stage {length}", part
    yield "residual diffusion", seconds["residual"]
    yield "decode", seconds["decode"]
    yield "total", seconds["total"]


def _memory_lines(memory: Mapping[str, Any]) -> list[str]:
    return [
        f"memory of the {kind}: {memory[f'{kind}_bytes'] / 2**20:.0f} MiB ({memory[f'{kind}_is']})"
        for kind in ("process", "device")
        if memory[f"{kind}_bytes"] is not None
    ]
