"""Where a benchmark's numbers go, and what they were measured on."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

from hart.evaluation.environment import environment
from hart.pipeline import HARTPipeline
from hart.utils.files import write_json

RESULTS = Path(__file__).parent / "results"


def add_output(parser: argparse.ArgumentParser, name: str) -> None:
    """Add ``--output``, by default ``results/<name>.json`` beside the benchmarks."""
    parser.add_argument(
        "--output", type=Path, default=RESULTS / f"{name}.json", help="default: %(default)s"
    )


def save_results(path: Path, pipeline: HARTPipeline, results: dict[str, Any]) -> None:
    """Write the numbers with date and environment."""
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    write_json(path, {"date": date, "environment": environment(pipeline), **results})
