"""Reuse, token pruning and guidance that ends early, compared on the same pictures of the demo.

Run ``python -m benchmarks.methods``. Two passes over the same configurations: few pictures in
rounds whose order rotates, for the speed, because machines drift; all held-out captions once, for
multiply-adds, likeness to the uncached pictures and attributes read back. With
``--random-weights 0.7b-1024`` the first pass alone, at the published shapes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import torch

from benchmarks.common import benchmark_parser, save_results
from benchmarks.methods_plot import methods_plot
from hart.demo import DEMO_CHECKPOINT
from hart.demo.evaluate import held_out_prompts
from hart.demo.reader import load_reader
from hart.evaluation.comparison import REFERENCE, Comparer
from hart.evaluation.comparison_report import comparison_report, finished, markdown_table
from hart.evaluation.extras import MissingExtraError
from hart.evaluation.figures import save_figure
from hart.evaluation.learned_metrics import AttributeAccuracy
from hart.evaluation.random_weights import RANDOM_SHAPES, assumed_similarity, random_pipeline
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.pipeline import GenerationOptions, HARTPipeline
from hart.utils.files import write_text

EQUAL_SHARES = (0.4, 0.6, 0.75, 0.9)
"""Shares of tokens left out at both of the last two stages, beside the published ones."""
THRESHOLDS = {"original": (0.6, 0.8, 0.9), "hybrid": (0.6, 0.9)}
"""By preset, beside its own."""
SEED = 1

Configurations = dict[str, CacheConfig]


def configurations(patch_nums: tuple[int, ...]) -> Configurations:
    """Everything that is compared, by name; :data:`REFERENCE` comes first."""
    found = {name: preset_config(name, patch_nums) for name in CACHE_PRESETS}
    last, before = patch_nums[-1] ** 2, patch_nums[-2] ** 2
    for name, thresholds in THRESHOLDS.items():
        for threshold in thresholds:
            found[f"{name} > {threshold:g}"] = replace(found[name], threshold=threshold)
    for share in EQUAL_SHARES:
        stages = {before: share, last: share}
        found[f"fastvar {share:.0%}"] = replace(found["fastvar"], prune_stages=stages)
    for unguided, stop in ((1, last), (2, before)):
        ending = f"unguided last {unguided}"
        found[ending] = replace(found[REFERENCE], guidance_stop_stage=stop)
    for name in ("original", "fastvar"):
        found[f"{name}, unguided last 1"] = replace(found[name], guidance_stop_stage=last)
    found["hybrid 75%"] = replace(found["hybrid"], prune_stages={last: 0.75})
    found["hybrid, guided"] = replace(found["hybrid"], guidance_stop_stage=None)
    return found


def compare(
    pipeline: HARTPipeline,
    chosen: Configurations,
    prompts: int,
    rounds: int,
    args: argparse.Namespace,
    judged: bool,
) -> dict[str, Any]:
    """One pass over all configurations; ``judged`` reads the attributes back."""
    captions, labels = held_out_prompts(prompts)
    options = GenerationOptions(seed=SEED, batch_size=args.batch_size)
    metrics = [AttributeAccuracy(load_reader(), labels)] if judged else []
    comparer = Comparer(pipeline, chosen, captions, options, metrics)
    comparison = comparer.run(rounds, warmup=0 if judged else args.warmup, quiet=args.quiet)
    return comparison_report(comparison, pipeline, min(args.batch_size, prompts))


def joined(timed: dict[str, Any], judged: dict[str, Any]) -> dict[str, Any]:
    """The second pass's report with the speeds of the first."""
    entries = {}
    for name, entry in judged["configurations"].items():
        speed = timed["configurations"][name]
        if entry["status"] == speed["status"] == "ok":
            keys = ("rounds", "seconds_per_image", "speedup")
            entry = {**entry, **{key: speed[key] for key in keys}}
        elif entry["status"] == "ok":
            entry = speed
        entries[name] = entry
    complete = timed["complete"] and judged["complete"]
    return {**judged, "complete": complete, "configurations": entries}


def add_differences(report: dict[str, Any]) -> None:
    """Say next to every share of attributes that are right how far it is from no-cache's."""
    entries = finished(report)
    for entry in entries.values():
        ours, reference = entry["quality"], entries[REFERENCE]["quality"]
        if "attribute_accuracy" in ours:
            change = ours["attribute_accuracy"] - reference["attribute_accuracy"]
            ours["attribute_accuracy_change"] = change


def load(args: argparse.Namespace) -> HARTPipeline:
    """The demo, or random weights with an assumed similarity."""
    if args.random_weights is None:
        return HARTPipeline.from_pretrained(DEMO_CHECKPOINT, device=args.device, dtype=args.dtype)
    pipeline = random_pipeline(args.random_weights, device=args.device, dtype=args.dtype)
    pipeline.transformer.similarity = assumed_similarity(pipeline.model, args.assume_similarity)
    return pipeline


def write(args: argparse.Namespace, pipeline: HARTPipeline, report: dict[str, Any]) -> None:
    """JSON, and beside it the table and the plot."""
    settings = {name: getattr(args, name) for name in ("prompts", "timed_prompts", "rounds")}
    if args.random_weights:
        settings = {"random_weights": args.random_weights, **settings}
        settings["assumed_similarity"] = args.assume_similarity
    save_results(args.output, pipeline, {"settings": settings, **report})
    table = markdown_table(report)
    write_text(args.output.with_suffix(".md"), table)
    print(table)
    entries = finished(report)
    if not entries:
        return
    try:
        save_figure(methods_plot(entries), args.output.with_suffix(".png"))
    except MissingExtraError as error:
        print(f"no plot: {error}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = benchmark_parser("methods")
    parser.add_argument("--prompts", type=int, default=200, help="that are judged")
    parser.add_argument("--timed_prompts", type=int, default=4, help="that are timed")
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before timing")
    parser.add_argument("--batch_size", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the configurations' names")
    parser.add_argument("--random-weights", choices=list(RANDOM_SHAPES))
    parser.add_argument(
        "--assume-similarity", type=float, default=0.65, help="with random weights only"
    )
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="of the processor")
    return parser.parse_args(argv)


def choose(patch_nums: tuple[int, ...], names: list[str] | None) -> Configurations:
    """The named configurations, or all; always with the reference.

    Raises:
        ValueError: an unknown name.
    """
    known = configurations(patch_nums)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}; known are {', '.join(known)}")
    return {n: c for n, c in known.items() if not names or n in (REFERENCE, *names)}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    pipeline = load(args)
    chosen = choose(pipeline.model.patch_nums, args.only)
    report = compare(pipeline, chosen, args.timed_prompts, args.rounds, args, judged=False)
    if args.random_weights is None and report["complete"]:
        report = joined(report, compare(pipeline, chosen, args.prompts, 1, args, judged=True))
        add_differences(report)
    write(args, pipeline, report)
    return 0 if report["complete"] else 130


if __name__ == "__main__":
    sys.exit(main())
