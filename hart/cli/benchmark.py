"""``hart generate --benchmark``: how long every part takes."""

from __future__ import annotations

import argparse

from hart.cli.loading import set_up
from hart.cli.output import keep_earlier, save_numbered
from hart.cli.report import configuration_name, run_settings, similarity_entry
from hart.cli.run import INTERRUPTED
from hart.cli.similarity import prepare_similarity
from hart.evaluation.benchmark import (
    DEFAULT_RUNS,
    benchmark_lines,
    benchmark_report,
    run_benchmark,
)
from hart.evaluation.environment import environment
from hart.utils.files import write_json

BENCHMARK_FILE = "benchmark_results.json"


def run_benchmark_command(args: argparse.Namespace) -> int:
    """Run the command; 0, or 130 after Ctrl-C, which keeps the finished runs.

    Raises:
        ValueError, OSError: a user's mistake; most are found before the model is loaded.
    """
    run = set_up(args)
    similarity = prepare_similarity(run)
    runs, warmup = args.benchmark_runs or DEFAULT_RUNS, args.benchmark_warmup
    benchmark = run_benchmark(run.pipeline, run.prompts, run.options, runs, warmup, args.quiet)
    files = [save_numbered(r, run).name for r in benchmark.images] if args.save_images else []
    report = {
        "configuration": configuration_name(run),
        "settings": {**run_settings(run), "warmup_runs": warmup, run.kind: run.prompts},
        "similarity": similarity_entry(similarity),
        "environment": environment(run.pipeline),
        **benchmark_report(benchmark, run.pipeline),
        "files": files,
    }
    keep_earlier(run.folder, BENCHMARK_FILE)
    write_json(run.folder / BENCHMARK_FILE, report, durable=True)
    for line in benchmark_lines(report, report["configuration"]):
        run.say(line)
    run.say(f"{BENCHMARK_FILE} in {run.folder}")
    return 0 if benchmark.complete else INTERRUPTED
