"""Run every benchmark with its defaults: ``python -m benchmarks``."""

from __future__ import annotations

import sys

from benchmarks import (
    adaptive_threshold,
    memory,
    methods,
    module_errors,
    soak,
    speed,
    statistics_cost,
)

BENCHMARKS = (speed, memory, statistics_cost, module_errors, adaptive_threshold, methods, soak)


def main() -> int:
    for benchmark in BENCHMARKS:
        print(f"== {benchmark.__name__}")
        benchmark.main([])
    return 0


if __name__ == "__main__":
    sys.exit(main())
