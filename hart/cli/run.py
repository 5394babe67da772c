"""What the parts of one run share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart.pipeline import HARTPipeline


@dataclass(frozen=True)
class Run:
    """One run of ``hart generate`` or ``hart batch``.

    Attributes:
        args: the command line.
        options: the sampling options in it, of the pipeline's ``options_class``.
        prompts: what to draw; class indices for VAR.
        folder: where images and report go; it can be written.
        pipeline: the loaded checkpoint.
        say: prints a line for the user, unless the run is quiet.
    """

    args: argparse.Namespace
    options: Any
    prompts: list[Any]
    folder: Path
    pipeline: HARTPipeline
    say: Callable[[str], None]
