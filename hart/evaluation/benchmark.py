"""Repeated runs of one configuration, timed part by part."""

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
        images: the images of the first finished run; those of every run are the same.
        statistics: cache statistics of one run, from ``model.get_cache_statistics()``.
        memory: see :meth:`MemoryWatch.read`.
        complete: False if Ctrl-C ended it early.
    """

    runs: list[RunSeconds] = field(default_factory=list)
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

    Args:
        pipeline: with the cache configuration and similarity data to be measured.
        prompts, options: what one run draws.
        runs: measured runs, at least 1.
        warmup: runs before them that are not measured.
        quiet: no progress bar.

    Raises:
        ValueError: ``runs`` is below 1 or ``warmup`` below 0.
    """
    check_runs(runs, warmup)
    benchmark = Benchmark()
    watch = MemoryWatch(pipeline.device)
    with progress_bar(warmup + runs, quiet) as bar:
        try:
            for index in range(warmup + runs):
                if index == warmup:
                    watch = MemoryWatch(pipeline.device)
                output, seconds = draw(pipeline, prompts, options)
                benchmark.images = benchmark.images or output.results
                benchmark.statistics = output.statistics
                if index >= warmup:
                    benchmark.runs.append(seconds)
                    benchmark.memory = watch.read()
                bar.update()
            benchmark.complete = True
        except KeyboardInterrupt:
            pass
    return benchmark
