"""Run every benchmark with its defaults: ``python -m benchmarks``."""

from __future__ import annotations

import importlib

BENCHMARKS = (
    "speed", "memory", "statistics_cost", "module_errors", "adaptive_threshold", "methods", "soak",
)  # fmt: skip

if __name__ == "__main__":
    for name in BENCHMARKS:
        print(f"== {name}")
        importlib.import_module(f"benchmarks.{name}").main([])
