"""``hart plot-similarity`` and ``hart plot-statistics``: pictures of what caching knows and did."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hart.cli.file_commands import PLOTTED_OPTIONS
from hart.cli.similarity_files import read_with_schedule
from hart.evaluation.figures import check_figure_file, save_figure
from hart.evaluation.similarity_plot import plot_similarity
from hart.evaluation.statistics_plot import plot_statistics, read_run_statistics
from hart.modules.networks.caching.cache_options import OPTION_NAMES, resolve_cache_config
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.plan import decide_all
from hart.modules.networks.caching.stages import StageSchedule
from hart.utils.text_files import read_text

MAX_STATISTICS_BYTES = 2**30


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
    names = ("cache_preset", *(OPTION_NAMES[field] for field in PLOTTED_OPTIONS))
    if all(getattr(args, name) is None for name in names):
        return None
    return resolve_cache_config(args, None, schedule.patch_nums)


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


def _output_file(args: argparse.Namespace) -> Path:
    output = Path(args.output) if args.output else Path(args.file).with_suffix(".png")
    check_figure_file(output)
    return output
