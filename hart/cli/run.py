"""What the parts of one ``hart generate`` run share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hart.pipeline import GenerationOptions, HARTPipeline, VARGenerationOptions


@dataclass(frozen=True)
class Run:
    """One run of the command.

    Attributes:
        args: the command line.
        options: the sampling options in it.
        prompts: what to draw; class indices for VAR.
        folder: where images and report go; it can be written.
        pipeline: the loaded checkpoint.
        say: prints a line for the user, unless the run is quiet.
    """

    args: argparse.Namespace
    options: GenerationOptions | VARGenerationOptions
    prompts: list[str] | list[int]
    folder: Path
    pipeline: HARTPipeline
    say: Callable[[str], None]

    @property
    def kind(self) -> str:
        """What the things to draw are called: ``"prompts"`` or ``"classes"``."""
        return self.pipeline.draws
