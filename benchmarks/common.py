"""What every benchmark has: its arguments, a progress bar, and a file with what was measured."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from hart.demo import DEMO_CHECKPOINT
from hart.evaluation.environment import environment
from hart.pipeline import HARTPipeline
from hart.utils.files import write_json

RESULTS = Path(__file__).parent / "results"
T = TypeVar("T")


def benchmark_parser(name: str) -> argparse.ArgumentParser:
    """With ``--device``, ``--quiet`` and ``--output``, by default ``results/<name>.json``."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--device")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / f"{name}.json", help="default: %(default)s"
    )
    return parser


def demo(device: str | None) -> HARTPipeline:
    return HARTPipeline.from_pretrained(DEMO_CHECKPOINT, device=device)


def progress(items: Iterable[T], unit: str, quiet: bool) -> Iterable[T]:
    """The items, with a bar where there is a terminal."""
    return tqdm(items, unit=unit, disable=True if quiet else None)


def save_results(path: Path, pipeline: HARTPipeline, results: dict[str, Any]) -> None:
    """Write the numbers with date and environment."""
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    write_json(path, {"date": date, "environment": environment(pipeline), **results})


def memory_growth(settled: Sequence[int], end: Sequence[int]) -> dict[str, Any]:
    """Most resident bytes after the beginning and at the end of a run.

    How much a process holds depends on what it did last, so that windows are compared in which
    everything had its turn.
    """
    first, last = max(settled), max(end)
    return {
        "resident_bytes_settled": first,
        "resident_bytes_end": last,
        "growth": last / first - 1,
    }


def save_growth(
    args: argparse.Namespace,
    pipeline: HARTPipeline,
    things: str,
    said: str,
    found: dict[str, Any],
    memory: Sequence[Any],
) -> None:
    """Print and write how memory grew over ``things``, an argument that says how many."""
    count = getattr(args, things)
    first, last = (found[f"resident_bytes_{when}"] / 2**20 for when in ("settled", "end"))
    print(
        f"{count} {things}, {said}; resident memory {first:.1f} MiB after {args.settled}, "
        f"{last:.1f} MiB at the end ({found['growth']:+.2%})"
    )
    results = {things: count, "settled": args.settled, **found, "memory": memory}
    save_results(args.output, pipeline, results)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rho of two series of equal length, in [-1, 1]."""

    def ranks(values: Sequence[float]) -> np.ndarray:  # equal values share the middle of theirs
        below, up_to = (np.searchsorted(np.sort(values), values, s) for s in ("left", "right"))
        return (below + up_to) / 2

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])
