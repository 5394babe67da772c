"""What a run has to draw, given what earlier ones left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hart.batch.jobs import Job, plan_batches


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
        undrawn: indices of images without a row.
        lost: indices of images whose picture is not what the row says.
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
    names = ("index", "line", "prompt", "seed", "cache_preset")
    return tuple(Job(**{name: row[name] for name in names}) for row in known)
