"""The arguments of the commands on files: similarity tables and reports."""

from __future__ import annotations

import argparse

from hart.cli.parser import add_debug, integer_from
from hart.evaluation.figures import SUFFIXES
from hart.evaluation.statistics_plot import KNOWN_DOCUMENTS
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.modules.networks.caching.stages import NAMED_SCHEDULES, StageSchedule


def add_file_commands(commands: argparse._SubParsersAction) -> None:
    """Add ``merge-similarity``, ``convert-similarity`` and the plots to ``hart``."""
    _add_merge(commands)
    _add_convert(commands)
    _add_plot_similarity(commands)
    _add_plot_statistics(commands)


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


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    """Add ``--schedule``, for files that do not name their stages."""
    parser.add_argument(
        "--schedule",
        type=schedule_argument,
        metavar="SIDES",
        help="stages of a .pt or .pkl file, which does not name them: "
        f"{', '.join(NAMED_SCHEDULES)}, or sides such as 1,2,3,4,5,7,9,12,16 "
        "(default: var-256 or hart-1024 for a .pt of their size, hart-1024 for .pkl)",
    )


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
    _add_schedule(parser)
    add_debug(parser)
    parser.set_defaults(run="hart.cli.similarity_files:run_merge")


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
    _add_schedule(parser)
    parser.add_argument(
        "--to-schedule",
        type=schedule_argument,
        metavar="SIDES",
        help="stages of OUT, named as for --schedule (default: those of IN)",
    )
    add_debug(parser)
    parser.set_defaults(run="hart.cli.similarity_files:run_convert")


def _add_plot_similarity(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "plot-similarity", help="draw a similarity table and what a configuration would reuse"
    )
    parser.description = (
        "Draw similarity data as heat maps, layers by transitions, and mark what a cache "
        "configuration would reuse. Needs the extra plots."
    )
    parser.add_argument("file", metavar="FILE", help="similarity data: .json, .pt or .pkl")
    _add_output(parser)
    _add_schedule(parser)
    parser.add_argument(
        "--cache-preset", choices=list(CACHE_PRESETS), help="configuration whose reuse is marked"
    )
    parser.add_argument(
        "--cache-threshold",
        type=float,
        metavar="X",
        help="its threshold (default: that of the preset)",
    )
    for kind, default in (("skip", "skips"), ("cache", "caches")):
        parser.add_argument(
            f"--cache-{kind}-stages",
            type=int,
            nargs="*",
            metavar="N",
            help=f"token counts of the stages that it {default} (default: those of the preset)",
        )
    add_debug(parser)
    parser.set_defaults(run="hart.cli.plots:run_plot_similarity")


def _add_plot_statistics(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "plot-statistics", help="draw what a run reused and how long its stages took"
    )
    parser.description = (
        "Draw what a run computed and reused at every stage, and how long its stages took. "
        "Needs the extra plots."
    )
    parser.add_argument("file", metavar="FILE", help=KNOWN_DOCUMENTS)
    _add_output(parser)
    add_debug(parser)
    parser.set_defaults(run="hart.cli.plots:run_plot_statistics")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"the picture, {' or '.join(SUFFIXES)} (default: beside FILE, as .png)",
    )
