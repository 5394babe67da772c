"""The arguments of ``hart generate`` that measure instead of drawing, and what they exclude."""

from __future__ import annotations

import argparse

from hart.cli.parser import integer_from, number_within
from hart.evaluation import DEFAULT_ROUNDS, DEFAULT_RUNS, DEFAULT_WARMUP
from hart.evaluation.random_shapes import RANDOM_SHAPES
from hart.modules.networks.caching.cache_options import OPTION_NAMES

MODEL_FLAGS = (
    "--model_path",
    "--text_model_path",
    "--tokenizer_path",
    "--use_ema",
    "--system_prompt_file",
)
CACHE_FLAGS = tuple(
    "--" + name.replace("_", "-")
    for name in ("cache_preset", *OPTION_NAMES.values(), "use_cache", "threshold")
)

# Flag -> the flags that mean nothing beside it, and why.
EXCLUDES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("--random-weights", MODEL_FLAGS, "random weights are not those of a checkpoint"),
    ("--assume-similarity", ("--sim-path", "--calibration"), "there can be only one table"),
    ("--benchmark", ("--calibration",), "calibrate first, then measure"),
    ("--compare_configs", ("--calibration",), "calibrate first, then measure"),
    (
        "--compare_configs",
        CACHE_FLAGS,
        "name presets, or JSON files of CacheConfig fields, after --compare_configs",
    ),
)
# Flag -> the flags of which it needs one.
NEEDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("--random-weights", ("--benchmark", "--compare_configs")),
    ("--benchmark_runs", ("--benchmark", "--compare_configs")),
    ("--lpips_weights", ("--compare_configs",)),
    ("--fid_weights", ("--compare_configs",)),
    ("--clip_path", ("--compare_configs",)),
)


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what chooses, sizes and feeds a measurement."""
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--benchmark", action="store_true", help="time repeated runs, part by part, and memory"
    )
    group.add_argument(
        "--compare_configs",
        nargs="*",
        metavar="NAME",
        help="draw the same images with several cache configurations and compare speed, memory "
        "and quality with no-cache: presets, or JSON files of CacheConfig fields (default: all "
        "presets)",
    )
    group.add_argument(
        "--benchmark_runs",
        type=integer_from(1),
        help=f"measured runs (default {DEFAULT_RUNS}; with --compare_configs {DEFAULT_ROUNDS} of "
        "each configuration)",
    )
    group.add_argument(
        "--benchmark_warmup",
        type=integer_from(0),
        default=DEFAULT_WARMUP,
        help="runs before them that are not measured (default %(default)s)",
    )
    group.add_argument(
        "--random-weights",
        choices=list(RANDOM_SHAPES),
        help="measure random weights of these shapes instead of a checkpoint",
    )
    group.add_argument(
        "--assume-similarity",
        type=number_within(-1, 1),
        metavar="X",
        help="take X for the similarity of every module and transition instead of a table",
    )
    group.add_argument("--lpips_weights", help='state dict of lpips.LPIPS(net="alex"): adds LPIPS')
    group.add_argument(
        "--fid_weights", help="torch-fidelity's Inception weights: adds FID against no-cache"
    )
    group.add_argument("--clip_path", help="folder of a CLIP model: adds the CLIP score")


def check_evaluation_arguments(args: argparse.Namespace) -> None:
    """Refuse combinations in which a flag would be ignored.

    Raises:
        ValueError: there is one.
    """
    for flag, others, reason in EXCLUDES:
        for other in others:
            if _is_given(args, flag) and _is_given(args, other):
                raise ValueError(f"{flag} and {other} exclude each other: {reason}")
    for flag, modes in NEEDS:
        if _is_given(args, flag) and not any(_is_given(args, mode) for mode in modes):
            raise ValueError(f"{flag} needs {' or '.join(modes)}")


def _is_given(args: argparse.Namespace, flag: str) -> bool:
    value = getattr(args, flag.removeprefix("--").replace("-", "_"))
    if flag in ("--benchmark", "--calibration", "--use_ema"):
        return bool(value)
    return value is not None
