"""What the parts of one ``hart generate`` run share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hart.pipeline import GenerationOptions, HARTPipeline

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


@dataclass(frozen=True)
class Run:
    """One run of the command.

    Attributes:
        args: the command line.
        options: the sampling options in it.
        prompts: what to draw.
        folder: where images and report go; it can be written.
        pipeline: the loaded checkpoint.
        say: prints a line for the user, unless the run is quiet.
    """

    args: argparse.Namespace
    options: GenerationOptions
    prompts: list[str]
    folder: Path
    pipeline: HARTPipeline
    say: Callable[[str], None]
