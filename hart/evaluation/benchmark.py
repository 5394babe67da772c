"""Repeated runs of one configuration, timed part by part, in turns with runs without caching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from hart.evaluation.memory import MemoryWatch
from hart.evaluation.random_weights import has_text_encoder
from hart.evaluation.repetitions import DEFAULT_RUNS, DEFAULT_WARMUP, check_runs
from hart.evaluation.timing import RunSeconds
from hart.pipeline import GenerationOptions, HARTPipeline, HARTPipelineOutput, ImageResult


@dataclass
class Benchmark:
    """What repeated runs took.

    Attributes:
        runs: seconds per image of every measured run.
        without_caching: the same of the run without caching that took turns with each of them;
            empty if the configuration is none.
        images: the images of the first finished run; those of every run are the same.
        statistics: cache statistics of one run, from ``model.get_cache_statistics()``.
        memory: of the run that took most, see :meth:`MemoryWatch.read`.
        complete: False if Ctrl-C ended it early.
    """

    runs: list[RunSeconds] = field(default_factory=list)
    without_caching: list[RunSeconds] = field(default_factory=list)
    images: list[ImageResult] = field(default_factory=list)
    statistics: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    complete: bool = False


def draw(
    pipeline: HARTPipeline, prompts: Sequence[str], options: GenerationOptions
) -> tuple[HARTPipelineOutput, RunSeconds]:
    """One run: all images of all prompts, and its seconds per image."""
    output = pipeline(prompts, quiet=True, **options.to_dict())
    return output, RunSeconds.of(output.results, has_text_encoder(pipeline))


def progress_bar(total: int, quiet: bool) -> tqdm:
    """A bar that counts runs; none where there is no terminal."""
    return tqdm(total=total, unit="run", disable=True if quiet else None)


def run_benchmark(
    pipeline: HARTPipeline,
    prompts: Sequence[str],
    options: GenerationOptions,
    runs: int = DEFAULT_RUNS,
    warmup: int = DEFAULT_WARMUP,
    quiet: bool = False,
) -> Benchmark:
    """Draw the same images again and again.

    A configuration that changes something takes turns with no caching at all, because machines
    drift: one run each, measured or to warm up, and each is first in every other round.

    Args:
        pipeline: with the cache configuration and similarity data to be measured.
        prompts, options: what one run draws.
        runs: measured runs of each, at least 1.
        warmup: runs of each before them that are not measured.
        quiet: no progress bar.

    Raises:
        ValueError: ``runs`` is below 1 or ``warmup`` below 0.
    """
    check_runs(runs, warmup)
    benchmark, model = Benchmark(), pipeline.model
    caches = model.use_cache and model.cache_config.changes_anything
    with progress_bar((warmup + runs) * (1 + caches), quiet) as bar:
        try:
            for turn in range(warmup + runs):
                drawn = {}
                for own in ((True, False), (False, True))[turn % 2] if caches else (True,):
                    drawn[own] = _draw_one(benchmark, pipeline, prompts, options, own)
                    bar.update()
                if turn >= warmup:
                    _keep(benchmark, drawn)
            benchmark.complete = True
        except KeyboardInterrupt:
            pass
    return benchmark


def _draw_one(
    benchmark: Benchmark,
    pipeline: HARTPipeline,
    prompts: Sequence[str],
    options: GenerationOptions,
    own: bool,
) -> tuple[RunSeconds, dict[str, Any]]:
    """Seconds and memory of one run, of the configuration itself or without caching."""
    model = pipeline.model
    before = model.use_cache
    model.use_cache = before and own
    watch = MemoryWatch(pipeline.device)
    try:
        output, seconds = draw(pipeline, prompts, options)
    finally:
        model.use_cache = before
    if own:
        benchmark.images = benchmark.images or output.results
        benchmark.statistics = output.statistics
    return seconds, watch.read()


def _keep(benchmark: Benchmark, drawn: dict[bool, tuple[RunSeconds, dict[str, Any]]]) -> None:
    """Add a finished round."""
    seconds, memory = drawn[True]
    benchmark.runs.append(seconds)
    if False in drawn:
        benchmark.without_caching.append(drawn[False][0])
    benchmark.memory = max(benchmark.memory or memory, memory, key=_total_bytes)


def _total_bytes(memory: dict[str, Any]) -> int:
    return (memory["process_bytes"] or 0) + (memory["device_bytes"] or 0)
