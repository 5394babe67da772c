"""Which prompts a run draws."""

from __future__ import annotations

import argparse
import random
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from hart.demo.captions import advice
from hart.utils.constants import default_prompts
from hart.utils.prompt_files import FIELDS, PromptRow, read_prompt_file

NUM_DEFAULT_PROMPTS = 4
_WIDTH = 88
ROW_OPTIONS = tuple(name for name in FIELDS if name != "prompt")

DEMO_PROMPTS = (
    "a large watermelon on a yellow background",
    "a strawberry on a pink background",
    "a rocket on a purple background",
    "a large cookie on a blue background",
)


def resolve_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts asked for, else four of the demo or, for another checkpoint, of the library.

    Raises:
        ValueError: a prompt is empty, or the file holds none or is none of prompts.
        OSError: the file cannot be read.
    """
    if args.prompts_file is not None:
        return read_prompts_file(Path(args.prompts_file))
    if args.prompts is not None:
        return args.prompts
    if args.demo_prompts is not None:
        from hart.demo.evaluate import held_out_prompts

        return held_out_prompts(args.demo_prompts)[0]
    if draws_demo(args):
        return list(DEMO_PROMPTS)
    return random.Random(args.seed).sample(default_prompts, NUM_DEFAULT_PROMPTS)


def draws_demo(args: argparse.Namespace) -> bool:
    """Whether the bundled demo draws."""
    return args.model_path is None and getattr(args, "random_weights", None) is None


def say_what_is_unknown(
    args: argparse.Namespace, prompts: Sequence[str], say: Callable[[str], None]
) -> None:
    """If the demo is asked for what it does not know, say so, and what it knows."""
    if not draws_demo(args):
        return
    if lines := advice(prompts):
        first, names = lines
        say(first)
        say(textwrap.fill(names, _WIDTH, initial_indent="  ", subsequent_indent="  "))


def read_prompts_file(file: Path) -> list[str]:
    """The prompts of a file, in the formats of :mod:`hart.utils.prompt_files`.

    Raises:
        ValueError: a row is bad, or has a seed or a cache preset of its own; it is named.
        OSError: the file cannot be read.
    """
    rows = list(read_prompt_file(file))
    bad = [(row.line, reason) for row in rows if (reason := _reason_against(row)) is not None]
    if bad:
        more = f" (and {len(bad) - 1} more bad rows)" if len(bad) > 1 else ""
        raise ValueError(f"{file}, line {bad[0][0]}: {bad[0][1]}{more}")
    return [row.fields["prompt"] for row in rows]


def _reason_against(row: PromptRow) -> str | None:
    if row.error is None and any(row.fields.get(name) is not None for name in ROW_OPTIONS):
        return (
            f"only `hart batch` takes {' and '.join(ROW_OPTIONS)} from a file; `hart generate` "
            "takes --seed and --cache-preset for all prompts"
        )
    return row.error
