"""Seconds of repeated runs, which take turns because machines drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from hart.pipeline import HARTPipeline, ImageResult
from hart.pipeline.results import PartSeconds
from hart.utils.progress import progress_bar

Item = TypeVar("Item")


def has_text_encoder(pipeline: HARTPipeline) -> bool:
    """Whether the condition comes from a text encoder, so that its time means something."""
    text_model = pipeline.text_model
    return text_model is not None and not getattr(text_model, "is_a_stand_in", False)


def mean_seconds(results: Sequence[ImageResult], with_text: bool = True) -> PartSeconds:
    """Seconds per image of one run; without text encoding unless ``with_text``.

    Raises:
        ValueError: there is no image.
    """
    if not results:
        raise ValueError("results is empty; a run has at least one image")

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    return PartSeconds(
        text_s=mean([result.text_s or 0.0 for result in results]) if with_text else None,
        stages_s=tuple(map(mean, zip(*(result.stages_s for result in results), strict=True))),
        residual_s=mean([result.residual_s for result in results]),
        decode_s=mean([result.decode_s for result in results]),
    )


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The order of one round: everybody is first in turn."""
    start = turn % len(items)
    return [*items[start:], *items[:start]]


def take_turns(
    names: Sequence[str], rounds: int, warmup: int, quiet: bool, draw: Callable[[str, int], None]
) -> bool:
    """Call ``draw(name, turn)`` for every name in every round, in an order that rotates.

    Args:
        rounds: measured rounds, at least 1.
        warmup: rounds before them, whose turns are below 0.
        quiet: no progress bar.

    Returns:
        False if Ctrl-C ended it early.

    Raises:
        ValueError: ``rounds`` is below 1 or ``warmup`` below 0.
    """
    if rounds < 1:
        raise ValueError(f"runs is {rounds}, must be at least 1")
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}, must not be negative")
    total = (warmup + rounds) * len(names)
    with progress_bar(total, "run", quiet) as bar:
        try:
            for turn in range(warmup + rounds):
                for name in rotated(names, turn):
                    bar.set_description(name)
                    draw(name, turn - warmup)
                    bar.update()
        except KeyboardInterrupt:
            return False
    return True


def spread(values: Sequence[float]) -> dict[str, float]:
    """``median``, ``p5`` and ``p95``: percentiles with linear interpolation, as numpy's default.

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        raise ValueError("values is empty; percentiles need at least one value")
    p5, median, p95 = np.percentile(values, [5, 50, 95]).tolist()
    return {"median": median, "p5": p5, "p95": p95}


def speedups(
    reference: Mapping[int, PartSeconds],
    seconds: Mapping[int, PartSeconds],
    part: Callable[[PartSeconds], float],
) -> list[float]:
    """How many times as fast as the reference, for every round in which both were measured."""
    both = sorted(reference.keys() & seconds.keys())
    return [part(reference[turn]) / part(seconds[turn]) for turn in both]


def seconds_by_part(runs: Sequence[PartSeconds], lengths: Sequence[int]) -> dict[str, Any]:
    """Spread over the runs of every part, in seconds per image.

    Args:
        runs: at least one.
        lengths: token counts of the stages, which name them.

    Returns:
        ``total``, ``text`` (None if the runs had no text encoder), ``transformer``, ``stages`` (by
        token count), ``residual`` and ``decode``.
    """
    parts: dict[str, Any] = {}
    for name in ("total", "text", "transformer", "residual", "decode"):
        values = [seconds for run in runs if (seconds := run.seconds[name]) is not None]
        parts[name] = spread(values) if len(values) == len(runs) else None
    stages = zip(lengths, zip(*(run.stages_s for run in runs), strict=True), strict=False)
    # The last stage can be left out.
    return {**parts, "stages": {str(length): spread(values) for length, values in stages}}
