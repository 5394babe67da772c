"""The arguments of ``hart batch``."""

from __future__ import annotations

import argparse

from hart.cli.arguments import (
    add_model_arguments,
    add_output_arguments,
    add_sampling_arguments,
    add_text_arguments,
)
from hart.modules.networks.caching.cache_options import add_cache_arguments

DESCRIPTION = (
    "Draw the prompts of a file into a folder. The same command goes on after an interruption. "
    "Started by torchrun or accelerate launch, several processes share the work."
)


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add everything that ``hart batch`` understands."""
    parser.description = DESCRIPTION
    add_model_arguments(parser.add_argument_group("model"))
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--prompts_file",
        required=True,
        metavar="FILE",
        help="text with one prompt per line, .jsonl of objects, .json of an array, or .csv or .tsv "
        "with a header: prompt and, for a row if wanted, seed and cache_preset",
    )
    add_text_arguments(prompts)
    add_sampling_arguments(parser.add_argument_group("sampling"))
    add_output_arguments(parser.add_argument_group("output"))
    add_cache_arguments(parser)
    # What `hart generate` can draw and measure with besides.
    parser.set_defaults(random_weights=None, assume_similarity=None)
