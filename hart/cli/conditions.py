"""What a run draws from: prompts for HART's checkpoints, classes for VAR's."""

from __future__ import annotations

import argparse
import random

from hart.cli.prompts import resolve_prompts
from hart.modules.models.transformer.var_checkpoint import is_var_checkpoint

NUM_DEFAULT_CLASSES = 4

# Flags that one kind of checkpoint does not understand, and what they say about it.
ONLY_HART = (
    "--prompts",
    "--prompts_file",
    "--demo_prompts",
    "--max_token_length",
    "--system_prompt_file",
    "--text_model_path",
    "--tokenizer_path",
    "--use_ema",
    "--clip_path",
)
ONLY_VAR = ("--classes", "--top_k")


def draws_classes(args: argparse.Namespace) -> bool:
    """Whether the checkpoint of a command line is VAR's.

    Raises:
        ValueError: a flag that its kind of checkpoint does not understand is given.
    """
    is_var = args.model_path is not None and is_var_checkpoint(args.model_path)
    for flag in ONLY_HART if is_var else ONLY_VAR:
        if getattr(args, flag.removeprefix("--")) is None:
            continue
        if is_var:
            raise ValueError(
                f"{flag}: {args.model_path} is a VAR checkpoint, which draws --classes and knows "
                "neither text nor averaged weights"
            )
        raise ValueError(
            f"{flag}: only VAR checkpoints have classes and top_k, and "
            f"{args.model_path or 'this one'} is none; HART draws --prompts"
        )
    return is_var


def resolve_conditions(
    args: argparse.Namespace, num_classes: int | None = None
) -> list[str] | list[int]:
    """The prompts asked for or, with ``num_classes``, the classes, else four drawn by the seed.

    Raises:
        ValueError, OSError: as :func:`resolve_prompts`.
    """
    if num_classes is None:
        return resolve_prompts(args)
    if args.classes is not None:
        return args.classes
    count = min(NUM_DEFAULT_CLASSES, num_classes)
    return random.Random(args.seed).sample(range(num_classes), count)
