"""Plans of growing savings and a plot of what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hart.evaluation.extras import MissingExtraError
from hart.evaluation.figures import BLUE, ORANGE, new_figure, save_figure
from hart.modules.networks.caching.plan_files import StoredPlan
from hart.tuning.plan import TunedPlan
from hart.tuning.solve import Solver
from hart.tuning.targets import Target
from hart.tuning.tuner import Tuner

PLANS = 8
PLOT_FILE = "pareto.png"


def pareto(
    tuner: Tuner,
    folder: Path,
    find: Callable[[Tuner, Target], TunedPlan],
    check: Callable[[TunedPlan], TunedPlan],
    say: Callable[[str], None],
) -> list[Path]:
    """Write eight plans, ``saved-10.json`` and so on, and a plot; the plans' files.

    Args:
        find: finds a plan for a target.
        check: adds what was measured on other prompts.
        say: is told about every plan.
    """
    solver = Solver(tuner.known, tuner.known.multiply_adds)
    most = 1 - solver.least_cost / solver.whole
    plans, files = [], []
    for share in np.linspace(most / PLANS, 0.98 * most, PLANS).tolist():
        plan = check(find(tuner, Target("target_saved", share)))
        plans.append(plan)
        files.append(plan.save(folder / f"saved-{round(100 * share)}.json"))
        say(f"{plan}\nsaved as {files[-1]}")
    try:
        save_figure(pareto_plot(plans), folder / PLOT_FILE)
    except MissingExtraError as error:
        say(f"no plot: {error}")
    return files


def pareto_plot(plans: Sequence[StoredPlan]):
    """SSIM against the saved share, predicted and measured.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for name, colour in (("predicted", ORANGE), ("measured", BLUE)):
        known = [figures for plan in plans if "ssim" in (figures := getattr(plan, name))]
        points = [(100 * each["saved_share"], each["ssim"]) for each in known]
        if points:
            spreads = [each.get("ssim_spread") or 0.0 for each in known]
            saved, ssim = zip(*points, strict=True)
            axes.errorbar(saved, ssim, yerr=spreads, marker="o", color=colour, label=name)
    axes.set_xlabel("multiply-adds of the transformer saved, %")
    axes.set_ylabel("SSIM to the pictures without caching")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
