"""``hart plot-similarity`` and ``hart plot-statistics``: pictures of what caching knows and did."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hart.cli.parser import add_debug
from hart.cli.similarity_files import add_schedule_argument, read_with_schedule
from hart.evaluation.figures import SUFFIXES, check_figure_file, save_figure
from hart.evaluation.run_statistics import KNOWN_DOCUMENTS, read_run_statistics
from hart.evaluation.similarity_plot import plot_similarity
from hart.evaluation.statistics_plot import plot_statistics
from hart.modules.models.transformer.cache_options import resolve_cache_config
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.decisions import decide_all
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.modules.networks.caching.stages import StageSchedule
from hart.utils.text_files import read_text

MAX_STATISTICS_BYTES = 2**30


def add_plot_commands(commands: argparse._SubParsersAction) -> None:
    """Add both commands to ``hart``."""
    _add_similarity(commands)
    _add_statistics(commands)


def _add_similarity(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "plot-similarity", help="draw a similarity table and what a configuration would reuse"
    )
    parser.description = (
        "Draw similarity data as heat maps, layers by transitions, and mark what a cache "
        "configuration would reuse. Needs the extra plots."
    )
    parser.add_argument("file", metavar="FILE", help="similarity data: .json, .pt or .pkl")
    _add_output(parser)
    add_schedule_argument(parser)
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
    parser.set_defaults(run=run_plot_similarity)


def run_plot_similarity(args: argparse.Namespace) -> int:
    """Run ``plot-similarity``.

    Raises:
        ValueError, OSError: the file cannot be used or the picture cannot be written.
    """
    output = _output_file(args)
    stored = read_with_schedule(args.file, args.schedule)
    config = _configuration(args, stored.schedule)
    plan = None
    if config is not None:
        config.warn_about(stored.schedule, stored.tables.depth)
        plan = decide_all(config, stored.schedule, stored.tables)
    preset = f"preset {args.cache_preset}" if args.cache_preset else "this configuration"
    save_figure(plot_similarity(stored, Path(args.file).name, plan, preset), output)
    print(output)
    return 0


def _configuration(args: argparse.Namespace, schedule: StageSchedule) -> CacheConfig | None:
    """The configuration that the flags describe; None without any."""
    given = (
        args.cache_preset,
        args.cache_threshold,
        args.cache_skip_stages,
        args.cache_cache_stages,
    )
    if all(value is None for value in given):
        return None
    return resolve_cache_config(args, None, schedule.patch_nums)


def _add_statistics(commands: argparse._SubParsersAction) -> None:
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
    parser.set_defaults(run=run_plot_statistics)


def run_plot_statistics(args: argparse.Namespace) -> int:
    """Run ``plot-statistics``.

    Raises:
        ValueError, OSError: the file cannot be used or the picture cannot be written.
    """
    output = _output_file(args)
    path = Path(args.file)
    try:
        statistics = read_run_statistics(json.loads(read_text(path, MAX_STATISTICS_BYTES)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    save_figure(plot_statistics(statistics, path.name), output)
    print(output)
    return 0


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"the picture, {' or '.join(SUFFIXES)} (default: beside FILE, as .png)",
    )


def _output_file(args: argparse.Namespace) -> Path:
    output = Path(args.output) if args.output else Path(args.file).with_suffix(".png")
    check_figure_file(output)
    return output
