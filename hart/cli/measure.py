"""``hart generate`` with ``--benchmark`` or ``--compare_configs``: speed, memory and quality."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from hart.cli.interrupts import INTERRUPTED
from hart.cli.loading import set_up
from hart.cli.output import keep_earlier, save_numbered
from hart.cli.report import configuration_name, report_head
from hart.cli.run import Run
from hart.cli.similarity import SimilaritySource, prepare_similarity
from hart.evaluation import DEFAULT_ROUNDS, DEFAULT_RUNS
from hart.evaluation.benchmark import benchmark_lines, benchmark_report, run_benchmark
from hart.evaluation.comparison import (
    Comparer,
    Comparison,
    named_configurations,
)
from hart.evaluation.comparison_report import (
    comparison_report,
    finished,
    markdown_table,
    speed_quality_plot,
)
from hart.evaluation.extras import MissingExtraError
from hart.evaluation.figures import save_figure
from hart.evaluation.image_grid import image_grid
from hart.evaluation.image_metrics import Metric, import_ssim
from hart.pipeline.loading import resolve_device
from hart.utils.files import write_json, write_text
from hart.utils.images import save_png

BENCHMARK_FILE = "benchmark_results.json"
JSON_FILE = "cache_comparison.json"
TABLE_FILE = "cache_comparison.md"
GRID_FILE = "cache_comparison.png"
PLOT_FILE = "cache_comparison_plot.png"
FAILED = 1


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
        **report_head(run, similarity, warmup_runs=warmup, **{run.pipeline.draws: run.prompts}),
        **benchmark_report(benchmark, run.pipeline),
        "files": files,
    }
    keep_earlier(run.folder, BENCHMARK_FILE)
    write_json(run.folder / BENCHMARK_FILE, report, durable=True)
    for line in benchmark_lines(report, report["configuration"]):
        run.say(line)
    run.say(f"{BENCHMARK_FILE} in {run.folder}")
    return 0 if benchmark.complete else INTERRUPTED


def run_compare_command(args: argparse.Namespace) -> int:
    """Run the command; 0, 1 if a configuration failed, 130 after Ctrl-C.

    Raises:
        ValueError, OSError: a user's mistake; most are found before the model is loaded.
    """
    configurations = named_configurations(args.compare_configs)
    import_ssim()
    metrics = _metrics_with_weights(args)
    run = set_up(args)
    if args.demo_prompts is not None:
        metrics.append(_attribute_accuracy(run))
    for config in configurations.values():  # all share a table, if one of them needs any
        run.pipeline.model.set_cache_config(config)
        if run.pipeline.model.cache_config.caches_anything:
            break
    similarity = prepare_similarity(run)
    comparer = Comparer(run.pipeline, configurations, run.prompts, run.options, metrics)
    rounds = args.benchmark_runs or DEFAULT_ROUNDS
    comparison = comparer.run(rounds, args.benchmark_warmup, args.quiet)
    report = _report(run, comparison, similarity)
    _write(run, comparison, report)
    if not comparison.complete:
        return INTERRUPTED
    return FAILED if comparison.failed else 0


def _metrics_with_weights(args: argparse.Namespace) -> list[Metric]:
    """Metrics whose weights the command line names."""
    files = (args.lpips_weights, args.fid_weights, args.clip_path)
    if files == (None, None, None):
        return []
    from hart.evaluation.learned_metrics import ClipScore, FrechetDistance, LpipsDistance  # slow

    device = resolve_device(args.device)
    kinds: tuple[Any, ...] = (LpipsDistance, FrechetDistance, ClipScore)
    return [kind(file, device) for kind, file in zip(kinds, files, strict=True) if file is not None]


def _attribute_accuracy(run: Run) -> Metric:
    from hart.demo.evaluate import held_out_prompts
    from hart.demo.reader import load_reader
    from hart.evaluation.learned_metrics import AttributeAccuracy

    reader, model = load_reader(), run.pipeline.model
    side = model.patch_nums[-1] * model.vae_proxy[0].downsample
    if side != reader.image_size:
        raise ValueError(
            f"--demo_prompts: the attribute reader reads pictures of {reader.image_size} pixels, "
            f"this model draws {side}"
        )
    _, labels = held_out_prompts(run.args.demo_prompts)
    return AttributeAccuracy(reader, labels, run.options.num_images_per_prompt)


def _report(run: Run, comparison: Comparison, similarity: SimilaritySource) -> dict[str, Any]:
    asked = {"demo_prompts": run.args.demo_prompts, run.pipeline.draws: run.prompts}
    head = report_head(run, similarity, warmup_rounds=run.args.benchmark_warmup, **asked)
    for name in ("cache_preset", "cache_config", "calibration"):
        del head["settings"][name]  # every configuration has its own
    batch_size = min(run.options.batch_size, len(comparison.prompts))
    return {
        **head,
        **comparison_report(comparison, run.pipeline, batch_size, run.args.benchmark),
    }


def _write(run: Run, comparison: Comparison, report: dict[str, Any]) -> None:
    keep_earlier(run.folder, JSON_FILE, TABLE_FILE, GRID_FILE, PLOT_FILE)
    write_json(run.folder / JSON_FILE, report, durable=True)
    table = markdown_table(report)
    write_text(run.folder / TABLE_FILE, table, durable=True)
    entries, written = finished(report), [JSON_FILE, TABLE_FILE]
    if entries:
        save_png(_grid(comparison, entries), run.folder / GRID_FILE, durable=True)
        written.append(GRID_FILE)
        try:
            save_figure(speed_quality_plot(entries), run.folder / PLOT_FILE)
            written.append(PLOT_FILE)
        except MissingExtraError as error:
            run.say(f"no plot: {error}")
    run.say(table)
    run.say(f"{', '.join(written)} in {run.folder}")


def _grid(comparison: Comparison, entries: Mapping[str, dict[str, Any]]):
    columns = {}
    for name, entry in entries.items():
        psnr = entry["quality"]["psnr_db"]
        likeness = "equal" if psnr is None else f"PSNR {psnr:.1f} dB"
        title = f"{entry['speedup']['image']['median']:.2f}x, {likeness}"
        columns[name] = title, comparison.results[name].examples
    return image_grid(comparison.prompts, columns)
