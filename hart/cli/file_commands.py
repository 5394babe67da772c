"""The arguments of the commands on files: similarity tables and reports."""

from __future__ import annotations

import argparse

from hart.cli.arguments import add_message_arguments
from hart.evaluation.figures import SUFFIXES
from hart.evaluation.statistics_plot import KNOWN_DOCUMENTS
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.modules.networks.caching.stages import NAMED_SCHEDULES, StageSchedule
from hart.utils.options import add_options, integer_from, options_of

PLOTTED_OPTIONS = ("skip_stages", "cache_stages", "threshold")
"""Fields of the configuration whose reuse ``plot-similarity`` marks."""


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


def _command(
    commands: argparse._SubParsersAction, name: str, run: str, text: str, description: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=description)
    add_message_arguments(parser, quiet=False)
    parser.set_defaults(run=run)
    return parser


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    """Add ``--schedule``, for files that do not name their stages."""
    text = (
        f"stages of a .pt or .pkl file, which does not name them: {', '.join(NAMED_SCHEDULES)}, or "
        "sides such as 1,2,3,4,5,7,9,12,16 (default: var-256 or hart-1024 for a .pt of their size, "
        "hart-1024 for .pkl)"
    )
    parser.add_argument("--schedule", type=schedule_argument, metavar="SIDES", help=text)


def _add_output(parser: argparse.ArgumentParser) -> None:
    text = f"the picture, {' or '.join(SUFFIXES)} (default: beside FILE, as .png)"
    parser.add_argument("--output", metavar="FILE", help=text)


def _add_merge(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "merge-similarity",
        "hart.cli.similarity_files:run_merge",
        "average similarity tables, weighted by their images",
        "Average similarity tables that were measured with one checkpoint on different images; "
        "the result is that of calibrating on all of them.",
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help=".json, .pt or .pkl")
    add("--output", required=True, metavar="FILE", help="the merged table")
    text = "images behind each file that does not say (.pt and .pkl never do)"
    add("--images", type=integer_from(1), metavar="NUMBER", help=text)
    _add_schedule(parser)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "convert-similarity",
        "hart.cli.similarity_files:run_convert",
        "write a similarity table in another format or for other stages",
        "Convert similarity data between .json (with provenance), VAR's .pt and HART's .pkl. "
        "Between different schedules the transitions are matched by stage size.",
    )
    parser.add_argument("input", metavar="INPUT", help=".json, .pt or .pkl")
    parser.add_argument("output", metavar="OUTPUT", help="its suffix chooses the format")
    _add_schedule(parser)
    text = "stages of OUTPUT, named as for --schedule (default: those of INPUT)"
    parser.add_argument("--to-schedule", type=schedule_argument, metavar="SIDES", help=text)


def _add_plot_similarity(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "plot-similarity",
        "hart.cli.plots:run_plot_similarity",
        "draw a similarity table and what a configuration would reuse",
        "Draw similarity data as heat maps, layers by transitions, and mark what a cache "
        "configuration would reuse. Needs the extra plots.",
    )
    parser.add_argument("file", metavar="FILE", help="similarity data: .json, .pt or .pkl")
    _add_output(parser)
    _add_schedule(parser)
    text = "configuration whose reuse is marked"
    parser.add_argument("--cache-preset", choices=list(CACHE_PRESETS), help=text)
    options = options_of(CacheConfig)
    add_options(parser, [options[name] for name in PLOTTED_OPTIONS], unset=True)


def _add_plot_statistics(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "plot-statistics",
        "hart.cli.plots:run_plot_statistics",
        "draw what a run reused and how long its stages took",
        "Draw what a run computed and reused at every stage, and how long its stages took. "
        "Needs the extra plots.",
    )
    parser.add_argument("file", metavar="FILE", help=KNOWN_DOCUMENTS)
    _add_output(parser)
