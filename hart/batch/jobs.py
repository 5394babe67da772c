"""What a file of prompts asks for, one job per image, and what a run has left to draw of it.

A line keeps its number of jobs and their indices whether it is good or bad, so that correcting one
moves no other image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.pipeline.options import SEED_LIMIT, ImageRequest
from hart.utils.errors import shown
from hart.utils.names import suggestion
from hart.utils.prompt_files import class_index, read_prompt_file


@dataclass(frozen=True)
class Job:
    """One image to draw.

    Attributes:
        index: place in the run, from 0; names the image.
        line: where in the file its line starts, from 1.
        prompt, seed: what it is drawn from; for VAR the number of a class, as a text.
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


class BadLine(NamedTuple):
    """A line that cannot be drawn: its number, from 1, and why."""

    line: int
    reason: str


class JobList(NamedTuple):
    """The content of a file of prompts."""

    jobs: list[Job]
    bad: list[BadLine]


def read_jobs(
    file: Path, seed: int = 0, images_per_prompt: int = 1, for_classes: bool = False
) -> JobList:
    """Read a file of prompts, in the formats of :mod:`hart.utils.prompt_files`.

    The n-th image of a row takes the row's seed + n; without one, image ``i`` of the run takes
    ``seed + i``. For classes a prompt that is not a number is a bad line.

    Raises:
        OSError, ValueError: as :func:`read_prompt_file`.
    """
    found = JobList([], [])
    for ordinal, row in enumerate(read_prompt_file(file)):
        first = ordinal * images_per_prompt
        try:
            if row.error is not None:
                raise ValueError(row.error)
            if for_classes:
                class_index(row.fields["prompt"])
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
    hint = suggestion(value, CACHE_PRESETS)
    known = ", ".join(CACHE_PRESETS)
    raise ValueError(f"cache_preset must be one of {known}, got {shown(value)}{hint}")


# --- what is left to draw -----------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Images to draw together.

    Attributes:
        jobs: of one cache configuration.
        kept: indices of those that are missing. The others are there and stay; they are drawn
            once more because what surrounds an image in its batch moves its rounding and, with an
            adaptive threshold, what it reuses.
    """

    jobs: tuple[Job, ...]
    kept: frozenset[int]


def plan_tasks(
    jobs: Sequence[Job],
    batch_size: int,
    undrawn: Set[int],
    lost: Set[int],
    rows: Mapping[int, Mapping[str, Any]],
) -> list[Task]:
    """What draws the undrawn images as a run without interruption would, and the lost ones again.

    An undrawn image is drawn with its whole planned batch, a lost one with the batch that its row
    names: the planned one, or the part of it that fitted into memory.

    Args:
        jobs: of the whole file.
        undrawn, lost: indices, as in :class:`hart.batch.folder.Unfinished`.
        rows: by index.
    """
    tasks, unknown = [], set()
    drawn_as: dict[tuple[int, ...], set[int]] = {}
    for index in lost:
        drawn_as.setdefault(tuple(rows[index]["batch"]), set()).add(index)
    for batch, indices in drawn_as.items():
        together = _jobs_of_rows(batch, rows)
        if together:
            tasks.append(Task(together, frozenset(indices)))
        else:
            unknown |= indices
    for planned in plan_batches(jobs, batch_size):
        kept = frozenset(job.index for job in planned if job.index in undrawn | unknown)
        if kept:
            tasks.append(Task(tuple(planned), kept))
    return sorted(tasks, key=lambda task: min(task.kept))


def without_company(tasks: Sequence[Task]) -> list[Task]:
    """The same with nothing but what is missing, for runs that must not count an image twice."""
    return [
        Task(tuple(job for job in task.jobs if job.index in task.kept), task.kept) for task in tasks
    ]


def _jobs_of_rows(batch: Sequence[int], rows: Mapping[int, Mapping[str, Any]]) -> tuple[Job, ...]:
    """Of images that were drawn together; none if a row is lost or they cannot have been."""
    if not all(index in rows for index in batch):
        return ()
    known = [rows[index] for index in batch]
    if len({row["cache_preset"] for row in known}) > 1:
        return ()
    names = Job.__dataclass_fields__
    return tuple(Job(**{name: row[name] for name in names}) for row in known)
