"""The arguments of ``hart tune``."""

from __future__ import annotations

import argparse
import re

from hart.cli.arguments import (
    PROMPT_FORMATS,
    add_message_arguments,
    add_model_arguments,
    add_sampling_arguments,
    add_text_arguments,
)
from hart.utils.options import Either, integer_from, number_within

DEFAULT_OUTPUT = "plan.json"
DEFAULT_HELD_OUT = 32
_UNITS = {
    "": 1,
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


def add_tune_arguments(parser: argparse.ArgumentParser) -> None:
    """Add everything that ``hart tune`` understands."""
    parser.set_defaults(plan=None, quality=None)
    add_model_arguments(parser.add_argument_group("model"))
    _add_prompt_arguments(parser.add_argument_group("prompts"))
    _add_targets(parser.add_argument_group("target, at most one"))
    _add_steps(parser.add_argument_group("steps"))
    add_sampling_arguments(parser.add_argument_group("sampling"))
    add_message_arguments(parser)


def _add_prompt_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    text = f"what is drawn (default: captions of the demo, else the library's); {PROMPT_FORMATS}"
    add("--prompts_file", metavar="FILE", help=text)
    text = "class indices, for a VAR checkpoint (default: drawn by the seed)"
    add("--classes", nargs="+", type=integer_from(0), metavar="CLASS", help=text)
    text = "the last ones, which the plan is verified on and not found with (default: "
    text += f"at most {DEFAULT_HELD_OUT} or a third of the file); 0 verifies nothing"
    add("--held_out", type=integer_from(0), metavar="N", help=text)
    add_text_arguments(group)


def _add_targets(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    text = "whole pictures X times as fast as without caching"
    add("--target-speedup", type=number_within(1, 1e6), metavar="X", help=text)
    text = "share of the transformer's multiply-adds that is saved"
    add("--target-saved", type=number_within(0, 1), metavar="SHARE", help=text)
    text = "structural similarity to the pictures without caching"
    add("--min-ssim", type=number_within(0, 1), metavar="SSIM", help=text)
    add("--min-psnr", type=number_within(0, 1000), metavar="DB", help="likewise in dB")
    text = "seconds per picture on this machine"
    add("--max-latency", type=number_within(0, 1e6), metavar="SECONDS", help=text)
    text = "memory at the peak, such as 6GiB; on a CPU of the whole process"
    add("--max-memory", type=memory, metavar="BYTES", help=text)
    text = "write eight plans of growing savings and a plot into this folder"
    add("--pareto", metavar="DIR", help=text)
    text = "write the plans high, balanced and fast beside the checkpoint, for --quality"
    add("--quality-levels", action="store_true", help=text)


def _add_steps(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    text = (
        "measure every option, add to this file if it is there, and stop unless there is a target"
    )
    add("--measure", metavar="FILE", help=text)
    text = "take these measurements, added up, and measure nothing"
    add("--measurements", nargs="+", metavar="FILE", help=text)
    text = "about how long it may take, which decides how much is drawn (default: 10; 20 for "
    text += "--quality-levels, 30 for --pareto; --measure alone takes all prompts)"
    add("--minutes", type=number_within(0, 1e6), metavar="N", help=text)
    text = "real draws to refine a plan with; 0 solves without drawing (default: by --minutes)"
    add("--refine", type=integer_from(0), metavar="N", help=text)
    text = "correct what is reused by a scale and a shift per channel, where that helps"
    add("--affine", "--no-affine", action=Either, default=True, help=text)
    text = "leave out tokens"
    add("--pruning", "--no-pruning", action=Either, default=True, help=text)
    text = "end guidance early"
    add("--end-guidance", "--no-end-guidance", action=Either, default=True, help=text)
    add("--output", default=DEFAULT_OUTPUT, metavar="FILE", help="the plan (default: %(default)s)")


def memory(text: str) -> float:
    """Parser type: bytes, with a unit if wanted."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"expected bytes such as 6GiB or 500MB, got {text!r}")
    return float(match[1]) * _UNITS[match[2]]
