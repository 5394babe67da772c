"""``hart generate --compare_configs``: speed, memory and quality of several configurations."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from hart.cli.loading import set_up
from hart.cli.output import keep_earlier
from hart.cli.report import run_settings, similarity_entry
from hart.cli.run import INTERRUPTED, Run
from hart.cli.similarity import SimilaritySource, prepare_similarity
from hart.evaluation.comparison import (
    DEFAULT_ROUNDS,
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
from hart.evaluation.environment import environment
from hart.evaluation.extras import MissingExtraError
from hart.evaluation.figures import save_figure
from hart.evaluation.image_grid import image_grid
from hart.evaluation.image_metrics import Metric, import_ssim
from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline.loading import resolve_device
from hart.utils.files import write_json, write_text
from hart.utils.images import save_png

JSON_FILE = "cache_comparison.json"
TABLE_FILE = "cache_comparison.md"
GRID_FILE = "cache_comparison.png"
PLOT_FILE = "cache_comparison_plot.png"
FAILED = 1


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
    similarity = _prepare_similarity(run, configurations)
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
    kinds = (LpipsDistance, FrechetDistance, ClipScore)
    return [kind(file, device) for kind, file in zip(kinds, files, strict=True) if file is not None]


def _attribute_accuracy(run: Run) -> Metric:
    from hart.demo.evaluate import held_out_prompts
    from hart.demo.reader import IMAGE_SIZE
    from hart.evaluation.learned_metrics import AttributeAccuracy

    model = run.pipeline.model
    side = model.patch_nums[-1] * model.vae_proxy[0].downsample
    if side != IMAGE_SIZE:
        raise ValueError(
            f"--demo_prompts: the attribute reader reads pictures of {IMAGE_SIZE} pixels, "
            f"this model draws {side}"
        )
    _, labels = held_out_prompts(run.args.demo_prompts)
    return AttributeAccuracy(labels, run.options.num_images_per_prompt)


def _prepare_similarity(
    run: Run, configurations: Mapping[str, CacheConfig | str]
) -> SimilaritySource:
    """The table that all configurations share, if one of them needs any."""
    for config in configurations.values():
        run.pipeline.model.set_cache_config(config)
        if run.pipeline.model.cache_config.caches_anything:
            break
    return prepare_similarity(run)


def _report(run: Run, comparison: Comparison, similarity: SimilaritySource) -> dict[str, Any]:
    settings = {
        **run_settings(run),
        "warmup_rounds": run.args.benchmark_warmup,
        "demo_prompts": run.args.demo_prompts,
        run.kind: run.prompts,
    }
    for name in ("cache_preset", "cache_config", "calibration"):
        del settings[name]  # every configuration has its own
    batch_size = min(run.options.batch_size, len(comparison.prompts))
    return {
        "settings": settings,
        "similarity": similarity_entry(similarity),
        "environment": environment(run.pipeline),
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
    columns = {
        name: (
            f"{entry['speedup']['image']['median']:.2f}x, {_likeness(entry['quality'])}",
            comparison.results[name].examples,
        )
        for name, entry in entries.items()
    }
    return image_grid(comparison.prompts, columns)


def _likeness(quality: Mapping[str, Any]) -> str:
    return "equal" if quality["psnr_db"] is None else f"PSNR {quality['psnr_db']:.1f} dB"
