"""``hart merge-similarity`` and ``hart convert-similarity``: work on files of similarity data."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from hart.cli.parser import add_debug, integer_from
from hart.modules.networks.caching.similarity_formats import NAMED_SCHEDULES
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
from hart.version import __version__


def add_similarity_commands(commands: argparse._SubParsersAction) -> None:
    """Add both commands to ``hart``."""
    _add_merge(commands)
    _add_convert(commands)


def schedule_argument(text: str) -> StageSchedule:
    """Parser type: a schedule's name, or side lengths separated by commas."""
    if text in NAMED_SCHEDULES:
        return StageSchedule(NAMED_SCHEDULES[text])
    try:
        return StageSchedule(tuple(int(side) for side in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(NAMED_SCHEDULES)} or increasing sides such as 1,2,3,4; "
            f"got {text!r}"
        ) from None


def add_schedule_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--schedule``, for files that do not name their stages."""
    parser.add_argument(
        "--schedule",
        type=schedule_argument,
        metavar="SIDES",
        help="stages of a .pt or .pkl file, which does not name them: "
        f"{', '.join(NAMED_SCHEDULES)}, or sides such as 1,2,3,4,5,7,9,12,16 "
        "(default: var-256 or hart-1024 for a .pt of their size, hart-1024 for .pkl)",
    )


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


def _add_merge(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "merge-similarity", help="average similarity tables, weighted by their images"
    )
    parser.description = (
        "Average similarity tables that were measured with one checkpoint on different images; "
        "the result is that of calibrating on all of them."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help=".json, .pt or .pkl")
    parser.add_argument("--output", required=True, metavar="FILE", help="the merged table")
    parser.add_argument(
        "--images",
        type=integer_from(1),
        metavar="N",
        help="images behind each file that does not say (.pt and .pkl never do)",
    )
    add_schedule_argument(parser)
    add_debug(parser)
    parser.set_defaults(run=run_merge)


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


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert-similarity", help="write a similarity table in another format or for other stages"
    )
    parser.description = (
        "Convert similarity data between .json (with provenance), VAR's .pt and HART's .pkl. "
        "Between different schedules the transitions are matched by stage size."
    )
    parser.add_argument("input", metavar="IN", help=".json, .pt or .pkl")
    parser.add_argument("output", metavar="OUT", help="its suffix chooses the format")
    add_schedule_argument(parser)
    parser.add_argument(
        "--to-schedule",
        type=schedule_argument,
        metavar="SIDES",
        help="stages of OUT, named as for --schedule (default: those of IN)",
    )
    add_debug(parser)
    parser.set_defaults(run=run_convert)


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
        path = Path(file).resolve()
        if path in seen:
            raise ValueError(f"{file} is given twice")
        seen.add(path)
