"""From measurements to a plan that was tried: solving, refining, correcting, drawing again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

from PIL.Image import Image
from tqdm.auto import tqdm

from hart.modules.networks.caching.corrections import Correction
from hart.pipeline.base import Pipeline
from hart.pipeline.options import batches
from hart.tuning.affine import fit_corrections
from hart.tuning.costs import total
from hart.tuning.effort import ADJUSTMENTS, LADDER
from hart.tuning.measurements import Measurements, PictureError
from hart.tuning.measuring import BATCH_SIZE
from hart.tuning.plan import TunedPlan
from hart.tuning.refine import Trial, refine
from hart.tuning.replay import Replay, map_errors
from hart.tuning.selection import Selection, most_reused
from hart.tuning.solve import Allowed, ErrorModel, Solver, everything
from hart.tuning.targets import Chooser, Predictor, Target, planned
from hart.tuning.verification import picture_figures, verify
from hart.utils.images import to_pil

EQUAL_DB = 200.0
"""Stands for the ratio of equal pictures, which is infinite."""
SPEED_TOLERANCE = 0.02
"""How far a measured speedup may be from what is asked for before the budget is changed."""


class Tuner:
    """Finds plans for one model.

    Args:
        pipeline: whose model it is.
        measurements: of its options; pictures of whole plans are added.
        prompts: of the images that everything is tried on, one each.
        quiet: no progress bars.
        bar: makes what shows progress.
        sampling: fields of the pipeline's ``options_class``.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        measurements: Measurements,
        prompts: Any,
        quiet: bool = False,
        bar: Callable[..., Any] = tqdm,
        **sampling: Any,
    ) -> None:
        measurements.require(pipeline.transformer)
        self.pipeline, self.known = pipeline, measurements
        self.quiet, self.bar = quiet, bar
        self.sampling = {**sampling, "num_images_per_prompt": 1}
        self.prompts, self.schedule = prompts, measurements.schedule

    @cached_property
    def replays(self) -> list[Replay]:
        """The images, drawn without caching."""
        first = self.schedule.num_stages - most_reused(self.schedule)
        requests = self.pipeline.requests(self.prompts, **self.sampling)
        pieces = batches(requests, self.sampling.get("batch_size") or BATCH_SIZE)
        return [Replay(self.pipeline, batch, self.sampling, first) for batch in pieces]

    @cached_property
    def trial(self) -> Trial:
        return Trial(self.replays, self.schedule)

    @cached_property
    def reference(self) -> list[Image]:
        """The images as pictures."""
        return self._pictures([replay.reference for replay in self.replays])

    def _pictures(self, maps: Sequence[Any]) -> list[Image]:
        return [picture for each in maps for picture in to_pil(self.pipeline.decode(each))]

    # --- what plans are like ------------------------------------------------------------------

    def measure_pictures(self) -> None:
        """Draw whole plans of growing savings, from which others are predicted."""
        solver = Solver(self.known, self.known.multiply_adds)
        budgets = [solver.whole * (1 - share) for share in LADDER]
        steps = [budget for budget in budgets if budget >= solver.least_cost]
        for budget in self.bar(steps, desc="pictures", disable=True if self.quiet else None):
            self.add_picture(solver.solve(budget))

    def add_picture(self, selection: Selection) -> dict[str, Any]:
        """Measure pictures of one plan, and remember what they are like; their figures."""
        drawn = [replay.draw(selection.config(self.schedule)) for replay in self.replays]
        pairs = zip(drawn, self.replays, strict=True)
        errors = [error for maps, own in pairs for error in map_errors(maps, own.reference)]
        figures = picture_figures(self._pictures(drawn), self.reference)
        if figures["psnr_db"] is None:
            figures["psnr_db"] = EQUAL_DB
        predicted, count = ErrorModel(self.known).total(selection), len(self.reference)
        self.known.pictures.append(
            PictureError(predicted, fmean(errors), figures["ssim"], figures["psnr_db"], count)
        )
        return figures

    # --- plans --------------------------------------------------------------------------------

    def tune(
        self, target: Target, tries: int, affine: bool = True, allowed: Allowed = everything
    ) -> TunedPlan:
        """The best plan that is found for a target.

        Args:
            tries: how many selections are drawn.
            affine: correct what is reused, if that makes the error smaller.
            allowed: which combinations of pruning and guidance may be used.

        Raises:
            ValueError: the target cannot be reached, see ``targets.solve``.
        """
        chooser = Chooser(self.known, target, allowed)
        if target.is_cost:
            selection = self._by_cost(chooser, target, tries)
        else:
            selection = self._by_quality(chooser, target, tries)
        corrections = self.corrections(selection) if affine else []
        plan = planned(self.known, selection, target, corrections)
        error = self.trial.error(selection, corrections)
        known = Predictor(self.known).pictured(error) if error else {}
        return plan.with_figures(predicted={**plan.predicted, **known})

    def saving(self, share: float, allowed: Allowed = everything) -> Target:
        """To save a share of the multiply-adds, or the most that can be saved."""
        solver = Solver(self.known, self.known.multiply_adds, allowed)
        return Target("target_saved", min(share, 1 - solver.least_cost / solver.whole))

    def _by_cost(self, chooser: Chooser, target: Target, tries: int) -> Selection:
        chooser.best()  # complains about what cannot be reached
        budget = chooser.budget
        selection = self.refined(chooser.solver, budget, tries)
        if target.name == "target_saved" or tries == 0:
            return selection
        for _ in range(ADJUSTMENTS):
            ratio = self._cost_ratio(selection, target)
            if abs(ratio - 1) <= SPEED_TOLERANCE:
                break
            budget = max(chooser.solver.least_cost, budget / ratio)
            selection = self.refined(chooser.solver, budget, max(1, tries // 4))
        return selection

    def _cost_ratio(self, selection: Selection, target: Target) -> float:
        """How many times as long a picture takes as it should."""
        figures = verify(
            self.pipeline,
            selection.config(self.schedule),
            self.prompts,
            quiet=True,
            **self.sampling,
        )
        if target.name == "max_latency":
            return figures["seconds"] / target.value
        return target.value / figures["speedup"]

    def _by_quality(self, chooser: Chooser, target: Target, tries: int) -> Selection:
        """With every picture of a whole plan the next prediction is better."""
        selection = chooser.best()
        if tries == 0 or target.name == "max_memory":
            return selection
        kept = chooser.solver.nothing
        for _ in range(ADJUSTMENTS):
            selection = self.refined(
                chooser.solver, total(chooser.solver.costs, selection), max(1, tries // ADJUSTMENTS)
            )
            found = self.add_picture(selection)
            if self._keeps(target, found):
                kept = min(kept, selection, key=lambda each: total(chooser.solver.costs, each))
            chooser = Chooser(self.known, target, chooser.allowed)
            following = chooser.best()
            if following == selection:
                break
            selection = following
        return kept

    @staticmethod
    def _keeps(target: Target, found: Mapping[str, Any]) -> bool:
        """Whether pictures are as they should be."""
        return found["ssim" if target.name == "min_ssim" else "psnr_db"] >= target.value

    def refined(self, solver: Solver, budget: float, tries: int) -> Selection:
        """The best selection within a budget that real draws find."""
        if tries == 0:
            return solver.solve(budget)
        best = solver.nothing
        hidden = True if self.quiet else None
        with self.bar(total=tries, desc="refining", unit="draw", disable=hidden) as bar:
            for best in refine(self.trial, solver, budget, tries):
                bar.set_postfix_str(f"error {self.trial.error(best):.4g}")
                bar.update()
        return best

    def corrections(self, selection: Selection) -> list[Correction]:
        """Of what a selection reuses; none if they make the error larger."""
        config = selection.config(self.schedule)
        corrections = fit_corrections(self.replays[0], config)
        if not corrections:
            return []
        corrected = self.trial.error(selection, corrections)
        return corrections if corrected < self.trial.error(selection) else []
