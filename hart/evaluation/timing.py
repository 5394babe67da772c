"""Seconds of repeated runs, split into the parts of drawing an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hart.pipeline import ImageResult


@dataclass(frozen=True)
class RunSeconds:
    """Wall time of one run in seconds per image, the mean over its images.

    Attributes:
        text_s: text encoding; None if the run had no text encoder.
        stages_s: transformer and token drawing, one entry per stage, without the diffusion head.
        residual_s: the residual diffusion head.
        decode_s: from the feature map to the picture.
    """

    text_s: float | None
    stages_s: tuple[float, ...]
    residual_s: float
    decode_s: float

    @classmethod
    def of(cls, results: Sequence[ImageResult], has_text_encoder: bool = True) -> RunSeconds:
        """The means over one run's images.

        Raises:
            ValueError: there is no image.
        """
        if not results:
            raise ValueError("results is empty; a run has at least one image")
        stages = zip(*(result.stages_s for result in results), strict=True)
        return cls(
            text_s=_mean([result.text_s for result in results]) if has_text_encoder else None,
            stages_s=tuple(map(_mean, stages)),
            residual_s=_mean([result.residual_s for result in results]),
            decode_s=_mean([result.decode_s for result in results]),
        )

    @property
    def transformer_s(self) -> float:
        """All stages without the diffusion head."""
        return sum(self.stages_s)

    @property
    def total_s(self) -> float:
        return (self.text_s or 0.0) + self.transformer_s + self.residual_s + self.decode_s


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


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
    reference: Mapping[int, RunSeconds],
    seconds: Mapping[int, RunSeconds],
    part: Callable[[RunSeconds], float],
) -> list[float]:
    """How many times as fast as the reference, for every round in which both were measured."""
    both = sorted(reference.keys() & seconds.keys())
    return [part(reference[turn]) / part(seconds[turn]) for turn in both]


def seconds_by_part(runs: Sequence[RunSeconds], lengths: Sequence[int]) -> dict[str, Any]:
    """Spread over the runs of every part, in seconds per image.

    Args:
        runs: at least one.
        lengths: token counts of the stages, which name them.

    Returns:
        ``total``, ``text`` (None if the runs had no text encoder), ``transformer``, ``stages`` (by
        token count), ``residual`` and ``decode``.
    """

    def over_runs(seconds: Callable[[RunSeconds], float]) -> dict[str, float]:
        return spread([seconds(run) for run in runs])

    has_text = all(run.text_s is not None for run in runs)
    drawn = len(runs[0].stages_s)  # the last stage can be left out
    return {
        "total": over_runs(lambda run: run.total_s),
        "text": over_runs(lambda run: run.text_s) if has_text else None,
        "transformer": over_runs(lambda run: run.transformer_s),
        "stages": {
            str(length): spread([run.stages_s[si] for run in runs])
            for si, length in enumerate(lengths[:drawn])
        },
        "residual": over_runs(lambda run: run.residual_s),
        "decode": over_runs(lambda run: run.decode_s),
    }
