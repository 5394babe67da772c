"""``hart merge-similarity`` and ``hart convert-similarity``: work on files of similarity data."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from hart.modules.networks.caching.similarity_io import (
    LoadedSimilarity,
    SimilarityFileError,
    StoredSimilarity,
    match_stages,
    read_similarity,
    save_similarity,
)
from hart.modules.networks.caching.similarity_merge import merge_similarity
from hart.modules.networks.caching.stages import StageSchedule, format_stages
from hart.utils.files import real_path
from hart.version import __version__


def read_with_schedule(file: str, schedule: StageSchedule | None) -> StoredSimilarity:
    """Read a similarity file whose stages must be those of ``--schedule``, if that is given.

    Raises:
        SimilarityFileError: the file is unusable or has other stages.
        OSError: the file cannot be read.
    """
    stored = read_similarity(file, schedule)
    if schedule is not None and stored.schedule != schedule:
        raise SimilarityFileError(
            f"{file} has the stages {format_stages(stored.schedule.lengths)}, "
            f"--schedule means {format_stages(schedule.lengths)}"
        )
    return stored


def run_merge(args: argparse.Namespace) -> int:
    """Run ``merge-similarity``.

    Raises:
        ValueError, OSError: a file cannot be used or the files do not belong together.
    """
    _require_different_files([*args.files, args.output])
    parts = {file: _weighted(read_with_schedule(file, args.schedule), args) for file in args.files}
    uncounted = [file for file, part in parts.items() if not part.tables.images]
    if uncounted:
        raise ValueError(
            f"{', '.join(uncounted)}: unknown number of images; --images N says how many"
        )
    merged = merge_similarity(parts)
    _save(args.output, merged)
    print(
        f"{args.output}: {merged.tables.images} images of {len(parts)} tables{_lost(args.output)}"
    )
    return 0


def _weighted(stored: StoredSimilarity, args: argparse.Namespace) -> StoredSimilarity:
    if stored.tables.images or args.images is None:
        return stored
    return dataclasses.replace(
        stored, tables=dataclasses.replace(stored.tables, images=args.images)
    )


def run_convert(args: argparse.Namespace) -> int:
    """Run ``convert-similarity``.

    Raises:
        ValueError, OSError: IN cannot be used, OUT cannot hold it, or no transition matches.
    """
    _require_different_files([args.input, args.output])
    stored = read_with_schedule(args.input, args.schedule)
    schedule = args.to_schedule or stored.schedule
    matched = match_stages(stored, schedule)
    if not matched.matched:
        raise ValueError(
            f"{args.input} has no transition between the stages {format_stages(schedule.lengths)}; "
            f"its stages are {format_stages(stored.schedule.lengths)}"
        )
    provenance = dataclasses.replace(stored.provenance, patch_nums=schedule.patch_nums)
    _save(args.output, StoredSimilarity(matched.tables, provenance))
    print(f"{args.output}: {_extent(matched)}{_lost(args.output)}")
    return 0


def _extent(matched: LoadedSimilarity) -> str:
    text = f"{matched.matched} of {matched.total} transitions, {matched.tables.depth} blocks"
    if matched.matched < matched.total:
        text += "; nothing is reused at the others"
    return text


def _lost(file: str) -> str:
    if Path(file).suffix == ".json":
        return ""
    return f"; {Path(file).suffix} keeps no stages, number of images or fingerprint"


def _save(file: str, stored: StoredSimilarity) -> None:
    save_similarity(
        file,
        stored.tables,
        stored.schedule,
        fingerprint=stored.provenance.fingerprint,
        library_version=__version__,
        extra=stored.provenance.extra,
    )


def _require_different_files(files: list[str]) -> None:
    seen: set[Path] = set()
    for file in files:
        path = real_path(Path(file))
        if path in seen:
            raise ValueError(f"{file} is given twice")
        seen.add(path)
