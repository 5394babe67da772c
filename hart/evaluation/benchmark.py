"""Repeated runs of one configuration, timed part by part, in turns with runs without caching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hart.evaluation import DEFAULT_RUNS, DEFAULT_WARMUP
from hart.evaluation.memory import MemoryWatch
from hart.evaluation.timing import (
    has_text_encoder,
    mean_seconds,
    seconds_by_part,
    speedups,
    spread,
    take_turns,
)
from hart.pipeline import GenerationOptions, HARTPipeline, ImageResult
from hart.pipeline.results import PartSeconds
from hart.pipeline.savings import savings_text

NO_TEXT_ENCODER = "random features or classes: there is no text encoder and no time for one"
_OWN, _PLAIN = "as configured", "no-cache"


@dataclass
class Benchmark:
    """What repeated runs took.

    Attributes:
        runs: seconds per image of every measured run, by number of the round.
        without_caching: the same of the run without caching that took turns with each of them;
            empty if the configuration is none.
        images: the images of the first finished run; those of every run are the same.
        statistics: cache statistics of one run, from ``model.get_cache_statistics()``.
        memory: of the run that took most, see :meth:`MemoryWatch.read`.
        complete: False if Ctrl-C ended it early.
    """

    runs: dict[int, PartSeconds] = field(default_factory=dict)
    without_caching: dict[int, PartSeconds] = field(default_factory=dict)
    images: list[ImageResult] = field(default_factory=list)
    statistics: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    complete: bool = False


def run_benchmark(
    pipeline: HARTPipeline,
    prompts: Sequence[str],
    options: GenerationOptions,
    runs: int = DEFAULT_RUNS,
    warmup: int = DEFAULT_WARMUP,
    quiet: bool = False,
) -> Benchmark:
    """Draw the same images again and again.

    A configuration that changes something takes turns with no caching at all: one run each,
    measured or to warm up, and each is first in every other round.

    Args:
        pipeline: with the cache configuration and similarity data to be measured.
        prompts, options: what one run draws.
        runs: measured runs of each, at least 1.
        warmup: runs of each before them that are not measured.
        quiet: no progress bar.

    Raises:
        ValueError: ``runs`` is below 1 or ``warmup`` below 0.
    """
    benchmark, model = Benchmark(), pipeline.model
    uses_cache = model.use_cache
    caches = uses_cache and model.cache_config.changes_anything
    seconds: dict[str, dict[int, PartSeconds]] = {_OWN: {}, **({_PLAIN: {}} if caches else {})}

    def draw(name: str, turn: int) -> None:
        model.use_cache = uses_cache and name == _OWN
        watch = MemoryWatch(pipeline.device)
        try:
            output = pipeline(prompts, quiet=True, **options.to_dict())
        finally:
            model.use_cache = uses_cache
        if name == _OWN:
            benchmark.images = benchmark.images or output.results
            benchmark.statistics = output.statistics
        if turn >= 0:
            seconds[name][turn] = mean_seconds(output.results, has_text_encoder(pipeline))
            if name == _OWN:
                memory = watch.read()
                benchmark.memory = max(benchmark.memory or memory, memory, key=_total_bytes)

    benchmark.complete = take_turns(list(seconds), runs, warmup, quiet, draw)
    whole = set.intersection(*(set(of_name) for of_name in seconds.values()))
    benchmark.runs, benchmark.without_caching = (
        {turn: s for turn, s in seconds.get(name, {}).items() if turn in whole}
        for name in (_OWN, _PLAIN)
    )
    return benchmark


def _total_bytes(memory: Mapping[str, Any]) -> int:
    return (memory["process_bytes"] or 0) + (memory["device_bytes"] or 0)


def benchmark_report(benchmark: Benchmark, pipeline: HARTPipeline) -> dict[str, Any]:
    """The measurements as JSON-able values; None where no measured run was finished."""
    runs, lengths = list(benchmark.runs.values()), pipeline.model.schedule.lengths
    seconds = seconds_by_part(runs, lengths) if runs else None
    return {
        "complete": benchmark.complete,
        "runs": len(runs),
        "images_per_run": len(benchmark.images),
        "text_encoding": "text encoder" if has_text_encoder(pipeline) else NO_TEXT_ENCODER,
        "seconds_per_image": seconds,
        "images_per_second": 1 / seconds["total"]["median"] if seconds else None,
        "over_no_cache": _over_no_cache(benchmark),
        "memory": benchmark.memory if runs else None,
        "cache_statistics": benchmark.statistics,
    }


def _over_no_cache(benchmark: Benchmark) -> dict[str, Any] | None:
    """How many times as fast as without caching in the same round; None if that was not drawn."""
    rounds = benchmark.without_caching, benchmark.runs
    if not benchmark.without_caching:
        return None
    return {
        "image": spread(speedups(*rounds, lambda run: run.total_s)),
        "transformer": spread(speedups(*rounds, lambda run: run.transformer_s)),
        "seconds_per_image_without_caching": spread([run.total_s for run in rounds[0].values()]),
    }


def benchmark_lines(report: Mapping[str, Any], name: str) -> list[str]:
    """The measurements as a table for people; ``name`` is the configuration's."""
    seconds = report["seconds_per_image"]
    if seconds is None:
        return ["no measured run was finished"]
    lines = [
        f"{name}: {savings_text(report['cache_statistics'])}",
        f"{'seconds per image':<20}{'median':>10}{'p5':>10}{'p95':>10}{'share':>8}",
    ]
    for part, values in _parts(seconds):
        if values is None:
            lines.append(f"{part:<20}{'none':>10}")
            continue
        numbers = "".join(f"{values[key]:>10.4f}" for key in ("median", "p5", "p95"))
        share = values["median"] / seconds["total"]["median"]
        lines.append(f"{part:<20}{numbers}{share:>8.1%}")
    lines.append(
        f"{report['images_per_second']:.3g} images per second; "
        f"{report['runs']} runs of {report['images_per_run']} images"
    )
    if report["over_no_cache"] is not None:
        image, transformer, without = report["over_no_cache"].values()
        lines.append(
            f"{image['median']:.2f} times as fast as no-cache ({image['p5']:.2f} to "
            f"{image['p95']:.2f}), the transformer {transformer['median']:.2f} times; drawn in "
            f"turns in this run, no-cache {without['median']:.4f} s per image"
        )
    memory = report["memory"]
    for kind in ("process", "device"):
        if memory[f"{kind}_bytes"] is not None:
            mib = memory[f"{kind}_bytes"] / 2**20
            lines.append(f"memory of the {kind}: {mib:.0f} MiB ({memory[f'{kind}_is']})")
    return lines


def _parts(seconds: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float] | None]]:
    yield "text encoding", seconds["text"]
    yield from ((f"stage {length}", part) for length, part in seconds["stages"].items())
    yield "residual diffusion", seconds["residual"]
    yield "decode", seconds["decode"]
    yield "total", seconds["total"]
