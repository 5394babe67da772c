"""The output folder of a batch: what is finished stays finished, whatever happens.

A batch's images are written first, each beside its place and renamed; then one record with a row
per image, in the same way; both are on the disk before the next batch begins. A record is all or
nothing, and a process writes records of its own images only, so that processes on any number of
machines need no lock between them. ``results.jsonl`` is made of the records when a run starts and
ends. Killed between an image and its record, the next run draws that batch again and puts equal
images in the same places.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hart.batch.jobs import Job
from hart.utils.files import PART_SUFFIX, replacing, sync, write_json

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
        rows: one per image, with ``index``, ``prompt``, ``seed`` and ``cache_preset`` at least.
        extra: what else the batch made, JSON-able; its similarity table when calibrating.
    """

    rows: list[Row]
    extra: Any = None


class BatchFolder:
    """Reads and writes the files of a batch.

    Args:
        path: an existing folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = path / RECORDS

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
        try:
            yield
        finally:
            lock.release()

    def require_settings(self, settings: Mapping[str, Any]) -> None:
        """Note what decides how images look, or check it against what an earlier run noted.

        Raises:
            ValueError: it is something else, or the folder holds images of another command.
        """
        file = self.path / SETTINGS_FILE
        settings = json.loads(json.dumps(settings))
        if not file.exists():
            foreign = next((f for f in self.path.iterdir() if _IMAGE_NAME.fullmatch(f.name)), None)
            if foreign is not None:
                raise ValueError(
                    f"{foreign} was not drawn by this command; choose another --output_dir"
                )
            write_json(file, settings, durable=True)
            return
        before = _read_json(file)
        for name in sorted({*settings, *before}):
            if settings.get(name) != before.get(name):
                raise ValueError(
                    f"{self.path} holds images drawn with other settings: {name} was "
                    f"{before.get(name)!r}, now it is {settings.get(name)!r}; "
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
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        if not self._records.is_dir():
            fresh = self.path / f".{RECORDS}{PART_SUFFIX}"
            write_json(fresh / _START_FILE, {"start": start}, durable=True)
            os.replace(fresh, self._records)
            sync(self.path)
        return _read_json(self._records / _START_FILE)["start"]

    def close_records(self) -> None:
        """Forget the records, all of them or none, after :meth:`write_rows` has used them."""
        if self._records.is_dir():
            old = self.path / f".{RECORDS}-done{PART_SUFFIX}"
            if old.exists():
                shutil.rmtree(old)
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
        files = [(*self._extent(file), file) for file in self._record_files()]
        return [Record(**_read_json(file)) for _, _, file in sorted(files)]

    def count_recorded(self) -> int:
        """Number of images in records, by all processes."""
        return sum(self._extent(file)[1] for file in self._record_files())

    def rows(self) -> dict[int, Row]:
        """The rows of all finished images by index, recorded or in ``results.jsonl``."""
        rows = {row["index"]: row for row in _read_rows(self.path / ROWS_FILE)}
        for record in self.records():
            rows.update((row["index"], row) for row in record.rows)
        return rows

    def write_rows(self) -> dict[int, Row]:
        """Bring ``results.jsonl`` up to date and return the rows in it."""
        rows = self.rows()
        with (
            replacing(self.path / ROWS_FILE, durable=True) as beside,
            beside.open("w", encoding="utf-8") as file,
        ):
            for index in sorted(rows):
                file.write(json.dumps(rows[index], ensure_ascii=False, allow_nan=False) + "\n")
        return rows

    def missing(self, jobs: Sequence[Job], rows: Mapping[int, Row], images: bool) -> set[int]:
        """Indices of the jobs without a row or, if there are to be ``images``, without a file.

        Raises:
            ValueError: a row tells of another prompt, seed or preset than the job.
        """
        missing = set()
        for job in jobs:
            row = rows.get(job.index)
            if row is None or (images and not (self.path / job.file).is_file()):
                missing.add(job.index)
            if row is not None:
                self._require_same(job, row)
        return missing

    def _require_same(self, job: Job, row: Row) -> None:
        for name in ("prompt", "seed", "cache_preset"):
            if row.get(name) != getattr(job, name):
                raise ValueError(
                    f"line {job.line} of the prompts has changed: image {job.index} in {self.path} "
                    f"was drawn with {name} {row.get(name)!r}, now it is {getattr(job, name)!r}; "
                    "choose another --output_dir"
                )

    def _record_files(self) -> Iterator[Path]:
        if self._records.is_dir():
            yield from (f for f in self._records.iterdir() if _RECORD_NAME.fullmatch(f.name))

    @staticmethod
    def _extent(file: Path) -> tuple[int, int]:
        first, count = _RECORD_NAME.fullmatch(file.name).groups()
        return int(first), int(count)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: damaged ({error}); restore it or use another folder") from error


def _read_rows(file: Path) -> Iterator[Row]:
    if not file.exists():
        return
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("index"), int):
                raise ValueError("no object with an index")
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: damaged ({error})") from error
        yield row
