"""What a file of prompts asks for: one job per image, and the lines that ask for nothing sensible.

A line keeps its number of jobs and their indices whether it is good or bad, so that correcting one
moves no other image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.pipeline.options import SEED_LIMIT, ImageRequest
from hart.utils.errors import shown
from hart.utils.prompt_files import read_prompt_file


@dataclass(frozen=True)
class Job:
    """One image to draw.

    Attributes:
        index: place in the run, from 0; names the image.
        line: where in the file its line starts, from 1.
        prompt, seed: what it is drawn from.
        cache_preset: None means the configuration of the whole run.
    """

    index: int
    line: int
    prompt: str
    seed: int
    cache_preset: str | None = None

    @property
    def request(self) -> ImageRequest:
        return ImageRequest(self.index, self.prompt, self.seed)

    @property
    def file(self) -> str:
        return f"{self.index:06d}.png"


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be drawn: its number, from 1, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class JobList:
    """The content of a file of prompts."""

    jobs: list[Job]
    bad: list[BadLine]


def read_jobs(file: Path, seed: int = 0, images_per_prompt: int = 1) -> JobList:
    """Read a file of prompts, in the formats of :mod:`hart.utils.prompt_files`.

    The n-th image of a row takes the row's seed + n; without one, image ``i`` of the run takes
    ``seed + i``.

    Raises:
        OSError, ValueError: as :func:`read_prompt_file`.
    """
    found = JobList([], [])
    for ordinal, row in enumerate(read_prompt_file(file)):
        first = ordinal * images_per_prompt
        try:
            if row.error is not None:
                raise ValueError(row.error)
            found.jobs.extend(_jobs_of(row.fields, row.line, first, seed, images_per_prompt))
        except ValueError as error:
            found.bad.append(BadLine(row.line, str(error)))
    return found


def plan_batches(jobs: Sequence[Job], batch_size: int) -> list[list[Job]]:
    """Jobs of equal cache configuration, up to ``batch_size`` together, in the order of the file.

    The plan is made of all jobs, finished or not: which images are drawn together then depends
    neither on what an earlier run finished nor on the number of processes, and with it how matrix
    products round.
    """
    by_preset: dict[str | None, list[Job]] = {}
    for job in jobs:
        by_preset.setdefault(job.cache_preset, []).append(job)
    batches = [
        same[start : start + batch_size]
        for same in by_preset.values()
        for start in range(0, len(same), batch_size)
    ]
    return sorted(batches, key=lambda batch: batch[0].index)


def _jobs_of(
    fields: dict[str, Any], line: int, first: int, run_seed: int, images: int
) -> list[Job]:
    preset, given = _preset(fields.get("cache_preset")), fields.get("seed")
    seed = run_seed + first if given is None else _seed(given)
    if seed + images > SEED_LIMIT:
        raise ValueError(f"seed must be below 2**63 for every image of the line, got {seed}")
    return [Job(first + n, line, fields["prompt"], seed + n, preset) for n in range(images)]


def _seed(value: object) -> int:
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"seed must be an integer from 0, got {shown(value)}")
    return value


def _preset(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value in CACHE_PRESETS):
        return value
    raise ValueError(f"cache_preset must be one of {', '.join(CACHE_PRESETS)}, got {shown(value)}")
