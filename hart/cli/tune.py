"""``hart tune``: measure a checkpoint's options, find a plan for a target, verify it."""

from __future__ import annotations

import argparse
import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hart.batch.processes import Processes, joined_processes
from hart.cli.arguments import generation_options
from hart.cli.interrupts import INTERRUPTED
from hart.cli.loading import draws_classes, load_pipeline, speaker
from hart.cli.prompts import read_prompts_file
from hart.cli.tune_arguments import DEFAULT_HELD_OUT, DEFAULT_OUTPUT
from hart.demo.evaluate import held_out_prompts
from hart.modules.networks.caching.plan_files import plan_folder_of
from hart.pipeline.results import ImageResult
from hart.tuning.effort import EFFORTS, Work, effort_line, effort_within
from hart.tuning.measurements import Measurements
from hart.tuning.measuring import BATCH_SIZE, begin, measure
from hart.tuning.pareto import PLANS, pareto
from hart.tuning.plan import TunedPlan
from hart.tuning.selection import Selection, options
from hart.tuning.targets import TARGETS, Chooser, Target, planned, read_target
from hart.tuning.timed import time_parts
from hart.tuning.tuner import Tuner
from hart.utils.constants import default_prompts

MISSED = 1
LEVELS = {"high": 0.25, "balanced": 0.5, "fast": 0.7}
"""Share of the transformer's multiply-adds that the plan of a quality level saves."""
DEMO_TUNING_SEED, DEMO_HELD_OUT_SEED = 31, 32
NUM_TUNING_PROMPTS = 32
MINUTES = {1: 10.0, len(LEVELS): 20.0, PLANS: 30.0}
"""That so many plans may take to be found, unless the command line says."""
QUICK_S = 10.0
"""A first picture that took less is drawn again, since some things are only done once."""
TOLERANCES = {"target_speedup": 0.05, "max_latency": 0.05}
"""How far a verified plan may miss a target, as a share of it."""
SLACK = {"min_ssim": 0.005, "min_psnr": 0.25, "target_saved": 0.001}
"""The same in the target's own unit."""


def run_tune(args: argparse.Namespace) -> int:
    """Run the command: 0; 1 if a verified plan misses its target; 130 after Ctrl-C.

    Raises:
        ValueError, OSError: a user's mistake, or a target that cannot be reached.
    """
    with joined_processes(args.device) as processes:
        if processes.device is not None:
            args.device = str(processes.device)
        say = speaker(args.quiet or not processes.is_main)
        given = [args.pareto is not None, args.quality_levels, _target(args) is not None]
        if sum(given) > 1:
            raise ValueError("a target, --pareto and --quality-levels exclude each other")
        if args.measurements and args.measure:
            raise ValueError("--measure and --measurements exclude each other")
        if not (any(given) or args.measure):
            raise ValueError("a target, --pareto, --quality-levels or --measure is needed")
        command = _Command(args, processes, say)
        try:
            return command.run(any(given))
        except KeyboardInterrupt:
            say("interrupted; the same command goes on")
            return INTERRUPTED


def _target(args: argparse.Namespace) -> Target | None:
    given = {name: getattr(args, name) for name in TARGETS}
    if all(value is None for value in given.values()):
        return None
    return read_target(given)


class _Command:
    """One run of the command on one process."""

    def __init__(
        self, args: argparse.Namespace, processes: Processes, say: Callable[[str], None]
    ) -> None:
        self.args, self.processes, self.say = args, processes, say
        self.effort = EFFORTS[0]
        self.solves_only = args.refine == 0 and args.held_out == 0 and bool(args.measurements)
        if self.solves_only:
            return
        for_classes = draws_classes(args)
        options = generation_options(args, for_classes).to_dict()
        options["batch_size"] = args.batch_size or BATCH_SIZE
        del options["num_images_per_prompt"]
        self.sampling = options
        self.pipeline = load_pipeline(args, say)
        self.pipeline.model.set_cache_config("no-cache")
        self.prompts, self.held_out = self._prompts(for_classes)

    def _prompts(self, for_classes: bool) -> tuple[list[Any], list[Any]]:
        """What plans are found with, and what they are verified on."""
        args, asked = self.args, self.args.held_out
        if not for_classes and args.prompts_file is None and args.model_path is None:
            count = DEFAULT_HELD_OUT if asked is None else asked
            held_out = held_out_prompts(count, seed=DEMO_HELD_OUT_SEED)[0] if count else []
            return held_out_prompts(NUM_TUNING_PROMPTS, seed=DEMO_TUNING_SEED)[0], held_out
        if for_classes:
            known: Any = args.classes or range(self.pipeline.model.num_classes)
        elif args.prompts_file is not None:
            known = read_prompts_file(Path(args.prompts_file))
        else:
            known = default_prompts
        found = list(known)
        if args.classes is None and args.prompts_file is None:
            most = NUM_TUNING_PROMPTS + DEFAULT_HELD_OUT
            found = random.Random(args.seed).sample(found, min(len(found), most))
        count = min(DEFAULT_HELD_OUT, max(1, len(found) // 3)) if asked is None else asked
        if count >= len(found):
            raise ValueError(
                f"{count} of {len(found)} {self.pipeline.draws} are held out; at least one must be "
                "left to find a plan with"
            )
        return found[: len(found) - count], found[len(found) - count :]

    # --- how much is drawn --------------------------------------------------------------------

    def _plan_effort(self) -> None:
        """Decide how much is drawn in the time there is, and say so."""
        args = self.args
        plans = PLANS if args.pareto else len(LEVELS) if args.quality_levels else 1
        minutes = MINUTES[plans] if args.minutes is None else args.minutes
        found = self._work(plans) if self.processes.is_main else None
        work = self.processes.from_main(found)
        assert work is not None
        self.effort = effort_within(work, 60 * minutes, args.refine, args.held_out)
        self.held_out = self.held_out[: self.effort.held_out]
        self.say(effort_line(self.effort, work, minutes, len(self.prompts), len(self.held_out)))

    def _work(self, plans: int) -> Work:
        """What there is to do, from the seconds of a first picture."""
        args, target = self.args, _target(self.args)
        self.say("timing a first picture")
        picture = self._first_picture()
        if picture.total_s < QUICK_S:
            picture = self._first_picture()
        model = self.pipeline.transformer
        known = options(model.schedule, model.depth)
        rest_s = (picture.text_s or 0.0) + picture.decode_s
        return Work(
            model.transformer_shape,
            () if args.measurements else tuple(known.values()),
            map_s=picture.total_s - rest_s,
            rest_s=rest_s,
            times=not args.measurements,
            plans=plans,
            adjusts=target is not None and target.name not in ("target_saved", "max_memory"),
            processes=self.processes.count,
        )

    def _first_picture(self) -> ImageResult:
        alone = {**self.sampling, "num_images_per_prompt": 1}
        requests = self.pipeline.requests(self.prompts[:1], **alone)
        return self.pipeline.draw_together(requests, **alone)[0]

    # --- the steps ----------------------------------------------------------------------------

    def run(self, finds_plans: bool) -> int:
        """All steps that are asked for."""
        if finds_plans and not self.solves_only:
            self._plan_effort()
        known = self._measurements(finds_plans)
        if not finds_plans:
            self.say(f"{known.images} images of every option in {self.args.measure}")
            return 0
        if not self.processes.is_main:
            return 0
        if self.solves_only:
            return self._solve_only(known)
        tried = self.prompts[: self.effort.tried]
        tuner = Tuner(self.pipeline, known, tried, self.args.quiet, **self.sampling)
        if self.effort.tries and not known.pictures:
            tuner.measure_pictures()
            self._save(known)
        if self.args.pareto:
            return self._pareto(tuner)
        if self.args.quality_levels:
            return self._quality_levels(tuner)
        target = _target(self.args)
        assert target is not None
        plan = self._verified(self._found(tuner, target))
        self.say(f"{plan}\nsaved as {plan.save(self.args.output)}")
        return self._judge(plan, target)

    @property
    def _file(self) -> Path:
        """Of what is measured now."""
        if self.args.measure:
            return Path(self.args.measure)
        return Path(self.args.output or DEFAULT_OUTPUT).with_suffix(".measurements.json")

    def _save(self, known: Measurements) -> None:
        if not self.args.measurements:
            known.save(self._file)

    def _measurements(self, finds_plans: bool) -> Measurements:
        if self.args.measurements:
            known, *others = (Measurements.load(file) for file in self.args.measurements)
            for other in others:
                known = known.merged(other)
            return known
        start = self._started() if self.processes.is_main else None
        begun = self.processes.from_main(start)
        sampling = {**self.sampling, "batch_size": None}
        known = measure(
            self.pipeline,
            self.prompts[: self.effort.measured] if finds_plans else self.prompts,
            measurements=begun,
            processes=self.processes,
            save=lambda found: found.save(self._file),
            minutes=None if finds_plans else self.args.minutes,
            say=(lambda line: None) if finds_plans else self.say,
            quiet=self.args.quiet,
            **sampling,
        )
        if self.processes.is_main and known.seconds is None:
            prompts = self.prompts[: min(self.effort.timed, self.sampling["batch_size"])]
            known.seconds, known.memory_bytes = time_parts(
                self.pipeline, prompts, quiet=self.args.quiet, **self.sampling
            )
            known.save(self._file)
        return known

    def _started(self) -> Measurements:
        """What an earlier run has measured, if it was of this model, drawn likewise."""
        new = begin(self.pipeline, **self.sampling)
        if not self._file.exists():
            return new
        found = Measurements.load(self._file)
        name = new.differs_in(found)
        if name is not None:
            raise ValueError(
                f"{self._file}: measurements of another {name}; delete the file, or name "
                "another one by --measure"
            )
        self.say(f"going on from {found.images} images of every option in {self._file}")
        return found

    # --- plans --------------------------------------------------------------------------------

    def _allowed(self, selection: Selection) -> bool:
        pruned = bool(selection.shares) and not self.args.pruning
        return not (pruned or (selection.unguided and not self.args.end_guidance))

    def _found(self, tuner: Tuner, target: Target) -> TunedPlan:
        return tuner.tune(target, self.effort.tries, self.args.affine, self._allowed)

    def _solve_only(self, known: Measurements) -> int:
        """Without a model."""
        target = _target(self.args)
        if target is None:
            raise ValueError("--pareto and --quality-levels need --refine or --held_out")
        selection = Chooser(known, target, self._allowed).best()
        plan = planned(known, selection, target)
        self.say(f"{plan}\nsaved as {plan.save(self.args.output)}")
        return 0

    def _verified(self, plan: TunedPlan) -> TunedPlan:
        if not self.held_out:
            return plan
        self.say(f"verifying on {len(self.held_out)} other {self.pipeline.draws}")
        return plan.verify(self.pipeline, self.held_out, quiet=self.args.quiet, **self.sampling)

    def _judge(self, plan: TunedPlan, target: Target) -> int:
        """Whether the verified plan keeps its promise."""
        figure, sign = {
            "target_speedup": ("speedup", 1),
            "target_saved": ("saved_share", 1),
            "min_ssim": ("ssim", 1),
            "min_psnr": ("psnr_db", 1),
            "max_latency": ("seconds", -1),
        }.get(target.name, ("", 1))
        value = plan.measured.get(figure)
        if value is None:
            return 0
        slack = SLACK.get(target.name, TOLERANCES.get(target.name, 0) * target.value)
        missed = sign * (target.value - value)
        if missed <= slack:
            return 0
        self.say(f"the target is missed: {target.name} {target.value:g}, measured {value:.4g}")
        return MISSED

    def _quality_levels(self, tuner: Tuner) -> int:
        folders = self.pipeline.folders
        folder = plan_folder_of(Path()) if folders is None else folders.plan_folders[0]
        for name, share in LEVELS.items():
            plan = self._verified(self._found(tuner, tuner.saving(share, self._allowed)))
            self.say(f"{name}: {plan}\nsaved as {plan.save(folder / f'{name}.json')}")
        return 0

    def _pareto(self, tuner: Tuner) -> int:
        folder = Path(self.args.pareto)
        with contextlib.suppress(KeyboardInterrupt):
            files = pareto(tuner, folder, self._found, self._verified, self.say)
            self.say(f"{len(files)} plans in {folder}")
            return 0
        return INTERRUPTED
