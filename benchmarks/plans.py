"""Tuned plans beside presets, thresholds and FastVAR: what each saves and what it changes.

Run ``python -m benchmarks.plans``. It measures the demo's options on captions of one seed, finds a
plan for every saving and every choice that a plan may have, and draws captions of another seed with
everything that is compared. Interrupted, the same command goes on: measurements, plans and judged
configurations are kept in the folder of ``--output``. It prints how much time is left.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.common import benchmark_parser, demo, save_results
from benchmarks.methods import configurations
from benchmarks.plans_report import plans_plot, plans_table, verdicts
from hart.demo.evaluate import held_out_prompts
from hart.demo.reader import load_reader
from hart.evaluation.comparison import REFERENCE
from hart.evaluation.extras import MissingExtraError
from hart.evaluation.figures import save_figure
from hart.evaluation.image_metrics import quality
from hart.evaluation.learned_metrics import AttributeAccuracy
from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline import HARTPipeline
from hart.tuning.affine import fit_corrections
from hart.tuning.measurements import Measurements
from hart.tuning.measuring import measure
from hart.tuning.plan import TunedPlan
from hart.tuning.selection import Selection
from hart.tuning.targets import Target
from hart.tuning.tuner import Tuner
from hart.utils.files import write_text
from hart.utils.json_files import read_json_object

SHARES = (0.25, 0.4, 0.5, 0.6, 0.75)
"""Shares of the transformer's multiply-adds that are to be saved."""
SEED = 1
TUNING_SEED = 31
TRIED = 8

VARIANTS: dict[str, Callable[[Selection], bool]] = {
    "tuned": lambda selection: True,
    "no pruning": lambda selection: not selection.shares,
    "tokens by module": lambda s: not s.shares or s.token_choice == "module",
    "tokens by stage": lambda s: not s.shares or s.token_choice == "stage",
    "reuse alone": lambda selection: not (selection.shares or selection.unguided),
}
"""What a plan may do, by name."""


class Comparison:
    """All of it, step by step; every step finds what an earlier run has finished.

    Args:
        args: the command line.
        pipeline: the demo.
    """

    def __init__(self, args: argparse.Namespace, pipeline: HARTPipeline) -> None:
        self.args, self.pipeline = args, pipeline
        self.folder: Path = args.output.with_suffix("")
        self.sampling = {"seed": SEED, "batch_size": args.batch_size}
        self.tuning = held_out_prompts(args.tuning_prompts, seed=TUNING_SEED)[0]
        self.prompts, labels = held_out_prompts(args.prompts)
        self.metrics = [AttributeAccuracy(load_reader(), labels)]

    def measured(self) -> Measurements:
        """The options' errors, and pictures of whole plans."""
        file = self.folder / "measurements.json"
        known = Measurements.load(file) if file.is_file() else None
        known = measure(
            self.pipeline,
            self.tuning,
            measurements=known,
            save=lambda found: found.save(file),
            say=print,
            quiet=self.args.quiet,
            **self.sampling,
        )
        return known

    def plans(self) -> dict[str, CacheConfig]:
        """A plan of every variant and saving, with and without corrections."""
        known = self.measured()
        tuner = Tuner(
            self.pipeline, known, self.tuning[:TRIED], quiet=self.args.quiet, **self.sampling
        )
        work = [(name, share) for share in SHARES for name in VARIANTS]
        found: dict[str, CacheConfig] = {}
        for name, share in tqdm(work, desc="plans", disable=self.args.quiet or None):
            title = f"{name} {share:.0%}"
            plain = self._plan(tuner, title, name, share)
            if plain is None:
                continue
            found[title] = plain.config
            if name == "tuned":
                found[f"affine {share:.0%}"] = self._corrected(tuner, title, plain).config
        return found

    def _plan(self, tuner: Tuner, title: str, name: str, share: float) -> TunedPlan | None:
        """None where the variant cannot save so much."""
        file = self.folder / "plans" / f"{title}.json"
        if file.is_file():
            return TunedPlan.load(file, self.pipeline.transformer)
        try:
            target = Target("target_saved", share)
            plan = tuner.tune(target, self.args.tries, affine=False, allowed=VARIANTS[name])
        except ValueError as error:
            print(f"{title}: {error}")
            return None
        plan.save(file)
        return plan

    def _corrected(self, tuner: Tuner, title: str, plain: TunedPlan) -> TunedPlan:
        file = self.folder / "plans" / f"affine {title}.json"
        if file.is_file():
            return TunedPlan.load(file, self.pipeline.transformer)
        corrections = fit_corrections(tuner.replays[0], plain.config)
        config = plain.config.corrected(corrections)
        plan = TunedPlan(config, plain.origin, plain.predicted)
        plan.save(file)
        return plan

    def judged(self, chosen: Mapping[str, CacheConfig]) -> dict[str, Any]:
        """What each configuration saves and changes, on captions that no plan was found with."""
        known = self._known()
        missing = [name for name in chosen if name not in known]
        if not missing:
            return {name: known[name] for name in chosen}
        reference = self._draw(chosen[REFERENCE])[0]
        for name in tqdm([n for n in chosen if n not in known], disable=self.args.quiet or None):
            images, entry = self._draw(chosen[name])
            entry["quality"] = quality(images, reference, self.prompts, self.metrics)
            known[name] = entry
            save_results(self._file, self.pipeline, {"prompts": len(self.prompts), "all": known})
        return {name: known[name] for name in chosen}

    @property
    def _file(self) -> Path:
        return self.folder / "judged.json"

    def _known(self) -> dict[str, Any]:
        if not self._file.is_file():
            return {}
        found = read_json_object(self._file, 1 << 26)
        return found["all"] if found["prompts"] == len(self.prompts) else {}

    def _draw(self, config: CacheConfig) -> tuple[list, dict[str, Any]]:
        model = self.pipeline.transformer
        model.set_cache_config(config)
        started = time.perf_counter()
        output = self.pipeline(self.prompts, quiet=True, **self.sampling)
        return output.images, {
            "config": str(config),
            "multiply_adds_saved": output.statistics["saved_share"],
            "saved_by": output.statistics["saved_share_by"],
            "seconds_per_image": (time.perf_counter() - started) / len(self.prompts),
        }


def compared(pipeline: HARTPipeline) -> dict[str, CacheConfig]:
    """Presets, thresholds, FastVAR and ended guidance; without caching first."""
    return dict(configurations(pipeline.transformer.patch_nums))


def steps(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """The report, once what is made by hand is judged and once everything is."""
    chosen = compared(comparison.pipeline)
    yield {"configurations": comparison.judged(chosen)}
    chosen |= comparison.plans()
    yield {"configurations": comparison.judged(chosen)}


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser("plans")
    parser.add_argument("--prompts", type=int, default=200, help="that are judged")
    text = "that options are measured on"
    parser.add_argument("--tuning_prompts", type=int, default=32, help=text)
    parser.add_argument("--tries", type=int, default=60, help="draws to refine a plan with")
    parser.add_argument("--batch_size", type=int, default=4, help="default: %(default)s")
    args = parser.parse_args(argv)
    comparison = Comparison(args, demo(args.device))
    for report in steps(comparison):
        entries = report["configurations"]
        report["verdicts"] = verdicts(entries, SHARES)
        save_results(args.output, comparison.pipeline, {"prompts": args.prompts, **report})
    table = plans_table(entries, report["verdicts"])
    write_text(args.output.with_suffix(".md"), table)
    print(table)
    try:
        save_figure(plans_plot(entries), args.output.with_suffix(".png"))
    except MissingExtraError as error:
        print(f"no plot: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
