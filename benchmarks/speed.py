"""Speed and memory at the published shapes: as published, ours, and every preset.

Run ``python -m benchmarks.speed``. All paths draw the same prompt in one process, in turns, on
random weights: they compute exactly what trained ones would. The path with the most reuse draws an
image first that is not measured: it finds the decoder's precision, which is done once. Writes a
JSON document, the tables in it as Markdown and a plot of the stages' seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.as_published import as_published, published_habits
from benchmarks.common import benchmark_parser, progress, save_results
from benchmarks.roofline import Machine, part_bytes, part_macs
from benchmarks.speed_report import AS_PUBLISHED, OURS, growth_plot, markdown
from hart.demo import DEMO_CHECKPOINT
from hart.evaluation.memory import MemoryWatch
from hart.evaluation.random_weights import assumed_similarity, random_pipeline
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_io import read_similarity
from hart.pipeline import HARTPipeline

PRESETS = ("conservative", "original", "aggressive", "ultra-fast")
PROMPT = "a lighthouse in a storm"


@dataclass
class Path:
    """One way of drawing the image.

    Attributes:
        name: in the report.
        pipeline: what draws.
        preset: cache preset, None for the way as published.
        tables: similarities that decide the reuse, None for the way as published.
    """

    name: str
    pipeline: HARTPipeline
    preset: str | None = None
    tables: Any = None

    @contextlib.contextmanager
    def set_up(self) -> Iterator[None]:
        if self.preset is None:
            with published_habits(self.pipeline):
                yield
            return
        model = self.pipeline.transformer
        config = preset_config(self.preset, model.patch_nums)
        # What is measured is the reuse that the table allows, not how random weights adapt it.
        model.set_cache_config(replace(config, adaptive_threshold=False))
        model.similarity = self.tables
        yield


def demo_tables(model) -> SimilarityTables:
    """The demo's own similarities on a model of another depth and schedule.

    Layer l of L takes the demo's at the same relative depth; the last transition takes the demo's
    last, and so on backwards; the demo's first one serves what is left.
    """
    stored = read_similarity(DEMO_CHECKPOINT / "llm" / "cache_similarity.json")
    columns, missing = stored.schedule.columns, len(model.schedule.columns)
    rows = {}
    for site in ("attn", "mlp"):
        source = stored.tables.site(site)
        rows[site] = [[0.0] * model.schedule.width for _ in range(model.depth)]
        for layer, row in enumerate(rows[site]):
            taken = source[layer * len(source) // model.depth]
            for k, column in enumerate(model.schedule.columns):
                row[column] = taken[columns[max(0, len(columns) - missing + k)]]
    return SimilarityTables(rows["attn"], rows["mlp"], images=stored.tables.images)


def paths(pipeline: HARTPipeline, with_demo: bool, presets: Sequence[str] = PRESETS) -> list[Path]:
    everything = assumed_similarity(pipeline.model, 1.0)
    found = [
        Path(AS_PUBLISHED, as_published(pipeline)),
        Path(OURS, pipeline, "no-cache", everything),
        *(Path(f"{name}, ceiling", pipeline, name, everything) for name in presets),
    ]
    if with_demo:
        table = demo_tables(pipeline.model)
        found += [Path(f"{name}, demo's table", pipeline, name, table) for name in presets]
    return found


def measure(path: Path, batch_size: int) -> dict[str, Any]:
    """Seconds of every part of one image, peak memory in bytes and multiply-adds saved."""
    gc.collect()
    with path.set_up():
        watch = MemoryWatch(path.pipeline.device)
        output = path.pipeline([PROMPT] * batch_size, seed=1, batch_size=batch_size, quiet=True)
        memory = watch.read()
    result = output.results[0]
    lengths = path.pipeline.model.schedule.lengths
    stages = {f"stage {n}": s for n, s in zip(lengths, result.stages_s, strict=True)}
    return {
        "seconds": {**result.seconds, **stages},
        "peak_bytes": memory["device_bytes"] or memory["process_bytes"],
        "saved_share": output.statistics["saved_share"],
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and 95th percentile of every part over the runs, and the largest memory."""
    parts = runs[0]["seconds"]
    seconds = {part: [run["seconds"][part] for run in runs] for part in parts}
    return {
        "median_s": {part: float(np.median(values)) for part, values in seconds.items()},
        "p95_s": {part: float(np.percentile(values, 95)) for part, values in seconds.items()},
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "saved_share": runs[0]["saved_share"],
    }


def roofline(
    pipeline: HARTPipeline, batch_size: int, machine: Machine | None = None
) -> dict[str, Any]:
    machine = machine or Machine.measure(pipeline.device, pipeline.dtype)
    macs, moved = part_macs(pipeline, batch_size), part_bytes(pipeline, batch_size)
    parts = {
        part: {
            "macs": macs[part],
            "bytes": moved[part],
            "limit_s": machine.seconds(macs[part], moved[part]) / batch_size,
        }
        for part in macs
    }
    return {"macs_per_s": machine.macs_per_s, "bytes_per_s": machine.bytes_per_s, "parts": parts}


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser("speed")
    parser.add_argument("--shape", default="0.7b-1024", help="0.7b-1024 or tiny")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="default: 1, on CUDA 1 and 8")
    parser.add_argument("--runs", type=int, default=1, help="rounds over all paths")
    parser.add_argument("--warmup", type=int, help="default: 0 on the CPU, else 1")
    parser.add_argument(
        "--demo-table", action=argparse.BooleanOptionalAction, default=True,
        help="also with the reuse that the demo's similarities allow",
    )  # fmt: skip
    parser.add_argument("--dtype", default="fast")
    args = parser.parse_args(argv)
    pipeline = random_pipeline(args.shape, device=args.device, dtype=args.dtype)
    cpu = pipeline.device.type == "cpu"
    warmup = (0 if cpu else 1) if args.warmup is None else args.warmup
    report = {"shape": args.shape, "runs": args.runs, "warmup": warmup, "batches": {}}
    for batch_size in args.batch_sizes or ([1] if cpu else [1, 8]):
        ways = paths(pipeline, args.demo_table)
        limits = roofline(pipeline, batch_size)
        measure(next(way for way in ways if way.preset == PRESETS[-1]), batch_size)
        runs: dict[str, list] = {way.name: [] for way in ways}
        rounds = [(i, way) for i in range(warmup + args.runs) for way in ways]
        for i, way in progress(rounds, "run", args.quiet):
            run = measure(way, batch_size)
            if i < warmup:
                continue
            runs[way.name].append(run)
            finished = {name: summary(of_path) for name, of_path in runs.items() if of_path}
            report["batches"][str(batch_size)] = {"paths": finished, "roofline": limits}
            save_results(args.output, pipeline, report)  # an interruption keeps what is done
    args.output.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    growth_plot(report, args.output.with_suffix(".png"))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
