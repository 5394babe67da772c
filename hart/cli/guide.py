"""``hart`` alone: what one may want to type next."""

from __future__ import annotations

import argparse

GUIDE = """\
hart draws pictures of prompts with HART, faster by reusing work between its stages.

  hart generate --prompts "a strawberry on a pink background"
  hart generate --model_path FOLDER --prompts "a lighthouse" --cache-preset hybrid
  hart generate --compare_configs
      how much faster the presets are, and what that costs
  hart batch --prompts_file prompts.txt
      a file of prompts; the same command goes on after an interruption
  hart web
      a page to try it on

Without --model_path the bundled demo checkpoint draws; it knows 72 things and eight colours.
hart --help lists all commands, hart generate --help what a command takes."""


def run_guide(args: argparse.Namespace) -> int:
    """Print it."""
    print(GUIDE)
    return 0
