"""``hart merge-similarity`` and ``hart convert-similarity``: work on files of similarity data."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from hart.modules.networks.caching.similarity_io import (
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
    parts = {file: read_with_schedule(file, args.schedule) for file in args.files}
    uncounted = [file for file, part in parts.items() if not part.tables.images]
    if uncounted and args.images is None:
        raise ValueError(
            f"{', '.join(uncounted)}: unknown number of images; --images N says how many"
        )
    for file in uncounted:
        tables = replace(parts[file].tables, images=args.images)
        parts[file] = replace(parts[file], tables=tables)
    merged = merge_similarity(parts)
    _save(args.output, merged, f"{merged.tables.images} images of {len(parts)} tables")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Run ``convert-similarity``.

    Raises:
        ValueError, OSError: IN cannot be used, OUT cannot hold it, or no transition matches.
    """
    _require_different_files([args.input, args.output])
    stored = read_with_schedule(args.input, args.schedule)
    schedule = args.to_schedule or stored.schedule
    found = match_stages(stored, schedule)
    if not found.matched:
        raise ValueError(
            f"{args.input} has no transition between the stages {format_stages(schedule.lengths)}; "
            f"its stages are {format_stages(stored.schedule.lengths)}"
        )
    provenance = replace(stored.provenance, patch_nums=schedule.patch_nums)
    extent = f"{found.matched} of {found.total} transitions, {found.tables.depth} blocks"
    if found.matched < found.total:
        extent += "; nothing is reused at the others"
    _save(args.output, StoredSimilarity(found.tables, provenance), extent)
    return 0


def _save(file: str, stored: StoredSimilarity, extent: str) -> None:
    """Write a table and say what it holds, and what its format does not."""
    save_similarity(
        file,
        stored.tables,
        stored.schedule,
        fingerprint=stored.provenance.fingerprint,
        library_version=__version__,
        extra=stored.provenance.extra,
    )
    suffix = Path(file).suffix
    lost = f"; {suffix} keeps no stages, number of images or fingerprint"
    print(f"{file}: {extent}{'' if suffix == '.json' else lost}")


def _require_different_files(files: list[str]) -> None:
    paths = [real_path(Path(file)) for file in files]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ValueError(f"{files[i]} is given twice")
