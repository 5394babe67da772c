"""Which prompts a run draws."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from hart.utils.constants import default_prompts

NUM_DEFAULT_PROMPTS = 4

DEMO_PROMPTS = (
    "a large red star on a green background",
    "a blue circle with white dots on an orange background",
    "a big yellow heart on a purple background",
    "a black ring on a yellow background",
)


def resolve_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts asked for, else four of the demo or, for another checkpoint, of the library.

    Raises:
        ValueError: a prompt is empty, or the file holds none or is not UTF-8 text.
        OSError: the file cannot be read.
    """
    if args.prompts_file is not None:
        return read_prompts_file(Path(args.prompts_file))
    if args.prompts is not None:
        return args.prompts
    if args.demo_prompts is not None:
        from hart.demo.evaluate import held_out_prompts

        return held_out_prompts(args.demo_prompts)[0]
    if args.model_path is None and args.random_weights is None:
        return list(DEMO_PROMPTS)
    return random.Random(args.seed).sample(default_prompts, NUM_DEFAULT_PROMPTS)


def read_prompts_file(file: Path) -> list[str]:
    """One prompt per line; empty lines and lines that start with ``#`` are skipped."""
    lines = (line.strip() for line in read_text(file).splitlines())
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"{file}: no prompt in this file")
    return prompts


def read_text(file: Path) -> str:
    """The file's text, byte for byte but for a byte order mark.

    Raises:
        ValueError: not UTF-8 text.
        OSError: the file cannot be read.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error})") from error
