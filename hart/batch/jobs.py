"""What a file of prompts asks for: one job per image, and the lines that ask for nothing sensible.

A line keeps its number of jobs and their indices whether it is good or bad, so that correcting one
moves no other image.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.pipeline.options import SEED_LIMIT, ImageRequest

FIELDS = ("prompt", "seed", "cache_preset")
JSON_SUFFIXES = (".jsonl", ".ndjson")
_BOM = b"\xef\xbb\xbf"


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
    """Read prompts; the suffix says how: ``.jsonl``, ``.csv``, else text with one per line.

    In text, empty lines and lines that start with ``#`` are skipped. A line of JSONL is an object
    with ``prompt`` and, if wanted, ``seed`` and ``cache_preset``; CSV has a header with these
    names. The n-th image of a line takes the line's seed + n; without one, image ``i`` of the run
    takes ``seed + i``.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is nothing in it, or it is CSV with another header.
    """
    content = file.read_bytes().removeprefix(_BOM)
    if file.suffix.lower() in JSON_SUFFIXES:
        entries = _json_entries(content)
    elif file.suffix.lower() == ".csv":
        entries = _csv_entries(content, file)
    else:
        entries = _text_entries(content)
    found = JobList([], [])
    for ordinal, (line, entry) in enumerate(entries):
        first = ordinal * images_per_prompt
        try:
            if isinstance(entry, Exception):
                raise entry
            found.jobs.extend(_jobs_of(entry, line, first, seed, images_per_prompt))
        except (ValueError, TypeError) as error:
            found.bad.append(BadLine(line, str(error)))
    if not found.jobs and not found.bad:
        raise ValueError(f"{file}: no prompt in this file")
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


Entries = Iterator[tuple[int, dict[str, Any] | Exception]]


def _text_entries(content: bytes) -> Entries:
    for line, raw in enumerate(content.splitlines(), 1):
        raw = raw.strip()
        if raw and not raw.startswith(b"#"):
            yield line, _decoded(raw, lambda text: {"prompt": text.strip()})


def _json_entries(content: bytes) -> Entries:
    for line, raw in enumerate(content.splitlines(), 1):
        if raw.strip():
            yield line, _decoded(raw, _json_object)


def _decoded(raw: bytes, parse) -> dict[str, Any] | Exception:
    try:
        return parse(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8 text ({error.reason} at byte {error.start})")
    except RecursionError:
        return ValueError("not JSON (nested too deeply)")
    except ValueError as error:
        return ValueError(f"not JSON ({error})")


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value


def _csv_entries(content: bytes, file: Path) -> Entries:
    # Bytes that are no text stay recognisable, so that only their own line is bad.
    text = io.StringIO(content.decode("utf-8", errors="surrogateescape"), newline="")
    reader = csv.reader(text, strict=True)
    header = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise ValueError(f"{file}, line {line}: not CSV ({error})") from error
            yield line, ValueError(f"not CSV ({error})")
            continue
        if not row:
            continue
        if header is None:
            header = _csv_header(row, file)
        elif len(row) > len(header):
            yield line, ValueError(f"{len(row)} cells, but the header has {len(header)}")
        else:
            cells = dict(zip(header, row, strict=False))
            yield line, {name: cell for name, cell in cells.items() if cell or name == "prompt"}


def _csv_header(row: list[str], file: Path) -> list[str]:
    header = [name.strip() for name in row]
    if "prompt" not in header or len(set(header)) < len(header) or set(header) - set(FIELDS):
        raise ValueError(
            f"{file}: the header must name the column prompt and may name seed and cache_preset, "
            f"found {', '.join(map(repr, header))}"
        )
    return header


def _jobs_of(entry: dict[str, Any], line: int, first: int, run_seed: int, images: int) -> list[Job]:
    unknown = sorted(set(entry) - set(FIELDS))
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    prompt, preset = _prompt(entry.get("prompt")), _preset(entry.get("cache_preset"))
    given = entry.get("seed")
    seed = run_seed + first if given is None else _seed(given)
    if seed + images > SEED_LIMIT:
        raise ValueError(f"seed must be below 2**63 for every image of the line, got {seed}")
    return [Job(first + n, line, prompt, seed + n, preset) for n in range(images)]


def _prompt(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"prompt must be a text, got {_shortened(value)}")
    if not value.strip():
        raise ValueError("prompt is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"prompt is not UTF-8 text (at character {error.start})") from None
    return value


def _seed(value: object) -> int:
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"seed must be an integer from 0, got {_shortened(value)}")
    return value


def _preset(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value in CACHE_PRESETS):
        return value
    raise ValueError(
        f"cache_preset must be one of {', '.join(CACHE_PRESETS)}, got {_shortened(value)}"
    )


def _shortened(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
