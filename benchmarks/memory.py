"""Peak memory and seconds of every path at the published shapes, each in a process of its own.

Run ``python -m benchmarks.memory``. In one process (``benchmarks.speed``) the system's allocator
keeps what earlier paths have used, so that the peaks of the resident memory cannot be told apart.
Here every path starts anew, draws one image and ends; its seconds are those of a first image.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from benchmarks.common import benchmark_parser, progress, save_results
from benchmarks.speed import PRESETS, measure, paths
from benchmarks.speed_report import AS_PUBLISHED, OURS
from hart.evaluation.comparison_report import table_lines
from hart.evaluation.random_weights import RANDOM_SHAPES, random_pipeline

NAMES = (AS_PUBLISHED, OURS, *(f"{name}, ceiling" for name in PRESETS))


def first_image(name: str, shape: str, dtype: str, device: str | None) -> dict[str, Any]:
    """What ``benchmarks.speed.measure`` says of one image by the named path."""
    pipeline = random_pipeline(shape, device=device, dtype=dtype)
    (path,) = (path for path in paths(pipeline, with_demo=False) if path.name == name)
    return measure(path, batch_size=1)


def in_a_process(*arguments: Any) -> dict[str, Any]:
    """:func:`first_image` in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(first_image, *arguments).result()


def markdown(measured: dict[str, dict[str, Any]]) -> str:
    titles = ("path", "peak", "over no-cache", "over as published", "seconds", "transformer")
    rows = []
    peaks = {name: found["peak_bytes"] for name, found in measured.items()}
    for name, found in measured.items():
        over = [f"{peaks[name] / peaks[b]:.2f}" if b in peaks else "" for b in NAMES[1::-1]]
        seconds = (f"{found['seconds'][part]:.1f}" for part in ("total", "transformer"))
        rows.append((name, f"{peaks[name] / 2**30:.2f} GiB", *over, *seconds))
    return "\n".join(table_lines(titles, rows)) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser("memory")
    parser.add_argument("--shape", default="0.7b-1024", choices=list(RANDOM_SHAPES))
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="PATH")
    parser.add_argument("--dtype", default="fast")
    args = parser.parse_args(argv)
    environment_of = random_pipeline("tiny", device=args.device, dtype=args.dtype)
    report: dict[str, Any] = {"shape": args.shape, "paths": {}}
    measured = report["paths"]
    for name in progress(args.only, "path", args.quiet):
        measured[name] = in_a_process(name, args.shape, args.dtype, args.device)
        save_results(args.output, environment_of, report)  # an interruption keeps what is done
    print(markdown(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
