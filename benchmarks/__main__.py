"""Run every benchmark with its defaults: ``python -m benchmarks``."""

from __future__ import annotations

import sys

from benchmarks import adaptive_threshold, soak, statistics_cost

BENCHMARKS = (statistics_cost, adaptive_threshold, soak)


def main() -> int:
    for benchmark in BENCHMARKS:
        print(f"== {benchmark.__name__}")
        benchmark.main([])
    return 0


if __name__ == "__main__":
    sys.exit(main())
