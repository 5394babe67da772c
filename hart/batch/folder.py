"""The output folder of a batch: what is finished stays finished, whatever happens, and is verified.

A batch's images are written first, each beside its place and renamed; then one record with a row
per image, in the same way; both are on the disk before the next batch begins. A record is all or
nothing, and a process writes records of its own images only, so that processes on any number of
machines need no lock between them. ``results.jsonl`` is made of the records when a run starts and
ends. Killed between an image and its record, the next run draws that batch again and puts equal
images in the same places. A row holds its picture's size and digest; a picture that is not what its
row says is lost. The folder is made when a run starts and never while it draws: a folder that
vanishes ends the run.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hart.batch.jobs import Job
from hart.batch.shapes import (
    check_object,
    check_record,
    check_start,
    differences,
    read_document,
    read_rows,
)
from hart.utils.errors import shown
from hart.utils.files import PART_SUFFIX, file_sha256, regular_size, replacing, sync, write_json

ROWS_FILE = "results.jsonl"
SETTINGS_FILE = "batch.json"
RECORDS = "records"
LOCK_FILE = ".lock"
_START_FILE = "start.json"
_RECORD_NAME = re.compile(r"(\d+)x(\d+)\.json")
_IMAGE_NAME = re.compile(r"\d{6,}\.png")

Row = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One finished batch.

    Attributes:
        rows: one per image, as :func:`hart.batch.shapes.check_row` wants it; ``batch`` are the
            indices of what was drawn together.
        extra: what else the batch made, JSON-able; its similarity table when calibrating.
    """

    rows: list[Row]
    extra: Any = None


@dataclass(frozen=True)
class Unfinished:
    """What is left to draw.

    Attributes:
        undrawn: indices of images without a row.
        lost: index -> what is wrong with the picture of an image that has a row.
    """

    undrawn: frozenset[int]
    lost: dict[int, str]


class BatchFolder:
    """Reads and writes the files of a batch.

    Args:
        path: an existing folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = path / RECORDS
        self._identity: tuple[int, int] | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out; the system lets go of the lock when this process dies.

        Raises:
            ValueError: another run is at work.
        """
        lock = FileLock(self.path / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{self.path}: another run is drawing into this folder") from None
        except RuntimeError as error:  # a loop of links
            raise ValueError(f"{self.path / LOCK_FILE}: cannot be locked ({error})") from error
        try:
            self.require()
            yield
        finally:
            lock.release()

    def require(self) -> None:
        """Raise OSError if the folder has vanished, or is another one than at the first call."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise OSError(error.errno, "the output folder has vanished", str(self.path)) from error
        identity = (status.st_dev, status.st_ino)
        self._identity = self._identity or identity
        if identity != self._identity:
            raise FileNotFoundError(
                errno.ENOENT, "the output folder was replaced by another one", str(self.path)
            )

    def require_settings(self, settings: Mapping[str, Any]) -> None:
        """Note what decides how images look, or check it against what an earlier run noted.

        Raises:
            ValueError: it is something else, or the folder holds images of another command.
        """
        file = self.path / SETTINGS_FILE
        settings = json.loads(json.dumps(settings))
        if not os.path.lexists(file):
            foreign = next((f for f in self.path.iterdir() if _IMAGE_NAME.fullmatch(f.name)), None)
            if foreign is not None:
                raise ValueError(
                    f"{foreign} was not drawn by this command; choose another --output_dir"
                )
            write_json(file, settings, durable=True)
            return
        changed = list(differences(read_document(file, check_object), settings))
        if changed:
            raise ValueError(
                f"{self.path} holds images drawn with other settings: {'; '.join(changed)}; "
                "choose another --output_dir"
            )

    def open_records(self, start: Any = None) -> Any:
        """Prepare for drawing: remove what killed processes left half-written.

        Args:
            start: what the records add to, JSON-able; kept if this is the first run since
                :meth:`close_records`.

        Returns:
            The ``start`` of the first run.
        """
        for folder in (self.path, self._records):
            for part in folder.glob(f".*{PART_SUFFIX}"):
                _remove(part)
        if not os.path.lexists(self._records):
            fresh = self.path / f".{RECORDS}{PART_SUFFIX}"
            fresh.mkdir()
            write_json(fresh / _START_FILE, {"start": start}, durable=True)
            os.replace(fresh, self._records)
            sync(self.path)
        return read_document(self._records / _START_FILE, check_start)["start"]

    def close_records(self) -> None:
        """Forget the records, all of them or none, after :meth:`write_rows` has used them."""
        if self._records.is_dir():
            old = self.path / f".{RECORDS}-done{PART_SUFFIX}"
            if os.path.lexists(old):
                _remove(old)
            os.replace(self._records, old)
            sync(self.path)
            shutil.rmtree(old)

    def add_record(self, record: Record) -> None:
        """Note a finished batch whose images are on the disk.

        Raises:
            OSError: the disk is full or gone; then the batch is not finished.
        """
        name = f"{record.rows[0]['index']:06d}x{len(record.rows)}.json"
        write_json(self._records / name, {"rows": record.rows, "extra": record.extra}, durable=True)

    def records(self) -> list[Record]:
        """The finished batches, in the order of their first images."""
        found = []
        for first, count, file in sorted((*self._extent(f), f) for f in self._record_files()):
            content = read_document(file, partial(check_record, first=first, count=count))
            found.append(Record(**content))
        return found

    def count_recorded(self) -> int:
        """Number of images in records, by all processes."""
        return sum(self._extent(file)[1] for file in self._record_files())

    def rows(self) -> dict[int, Row]:
        """The rows of all finished images by index, recorded or in ``results.jsonl``."""
        file = self.path / ROWS_FILE
        rows = {row["index"]: row for row in (read_rows(file) if os.path.lexists(file) else ())}
        for record in self.records():
            rows.update((row["index"], row) for row in record.rows)
        return rows

    def write_rows(self) -> dict[int, Row]:
        """Bring ``results.jsonl`` up to date and return the rows in it."""
        self.require()
        rows = self.rows()
        with (
            replacing(self.path / ROWS_FILE, durable=True) as beside,
            beside.open("w", encoding="utf-8") as file,
        ):
            for index in sorted(rows):
                file.write(json.dumps(rows[index], ensure_ascii=False, allow_nan=False) + "\n")
        return rows

    def unfinished(self, jobs: Sequence[Job], rows: Mapping[int, Row], images: bool) -> Unfinished:
        """The jobs without a row or, if there are to be ``images``, without the row's picture.

        Raises:
            ValueError: a row tells of another prompt, seed or preset than the job, or a folder has
                a picture's name.
            OSError: a picture cannot be read.
        """
        undrawn, lost = set(), {}
        for job in jobs:
            if job.index not in rows:
                undrawn.add(job.index)
                continue
            self._require_same(job, rows[job.index])
            fault = self._fault(job, rows[job.index]) if images else None
            if fault is not None:
                lost[job.index] = fault
        return Unfinished(frozenset(undrawn), lost)

    def _fault(self, job: Job, row: Row) -> str | None:
        """What is wrong with a picture, None if it is the one that its row tells of."""
        file, expected = self.path / job.file, row["bytes"]
        if expected is None:
            return "not saved by an earlier run"
        try:
            size = regular_size(file)
        except OSError as error:
            return "missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
        except ValueError:
            if file.is_dir():
                raise  # it cannot be replaced, and is named before anything is drawn
            return "no regular file"
        if size < expected:
            return f"cut, {size} of {expected} bytes" if size else "empty"
        if size > expected or file_sha256(file) != row["sha256"]:
            return "another picture than was drawn"
        return None

    def _require_same(self, job: Job, row: Row) -> None:
        for name in ("prompt", "seed", "cache_preset"):
            if row[name] != getattr(job, name):
                raise ValueError(
                    f"line {job.line} of the prompts has changed: image {job.index} in {self.path} "
                    f"was drawn with {name} {shown(row[name])}, now it is "
                    f"{shown(getattr(job, name))}; "
                    "choose another --output_dir"
                )

    def _record_files(self) -> Iterator[Path]:
        if os.path.lexists(self._records):
            yield from (f for f in self._records.iterdir() if _RECORD_NAME.fullmatch(f.name))

    @staticmethod
    def _extent(file: Path) -> tuple[int, int]:
        first, count = file.stem.split("x")
        return int(first), int(count)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
