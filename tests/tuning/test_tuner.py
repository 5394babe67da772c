"""Refined, corrected and verified plans, and the command that makes them."""

from __future__ import annotations

import json

import pytest

from hart.cli.main import main
from hart.modules.networks.caching.plan_files import StoredPlan
from hart.tuning.affine import fit_corrections, fitted
from hart.tuning.costs import total
from hart.tuning.measurements import Measurements
from hart.tuning.refine import Trial, neighbours, refine
from hart.tuning.selection import Selection
from hart.tuning.solve import Solver
from hart.tuning.targets import Target
from hart.tuning.tuner import Tuner
from tests.tuning.conftest import PROMPTS


@pytest.fixture(scope="module")
def tuner(pipeline, measured) -> Tuner:
    copy = Measurements(measured.shape, measured.fingerprint, measured.settings, measured.errors)
    return Tuner(pipeline, copy, PROMPTS, quiet=True)


def test_refining_never_makes_it_worse_and_keeps_the_budget(tuner):
    solver = Solver(tuner.known, tuner.known.multiply_adds)
    budget = 0.6 * solver.whole
    trial = Trial(tuner.replays, tuner.schedule)
    found = list(refine(trial, solver, budget, 12))
    errors = [trial.error(each) for each in found]
    assert trial.draws <= 12
    assert errors == sorted(errors, reverse=True)
    assert all(total(solver.costs, each) <= budget for each in found)


def test_neighbours_differ_in_at_most_two_modules(tuner):
    solver = Solver(tuner.known, tuner.known.multiply_adds)
    budget = 0.7 * solver.whole
    start = solver.solve(budget)
    found = neighbours(solver, start, budget)
    assert found
    for each in found:
        changed = [a != b for a, b in zip(each.reused, start.reused, strict=True)]
        assert 1 <= sum(changed) <= 2
        assert total(solver.costs, each) <= budget


def test_corrections_bring_what_is_kept_nearer(tuner):
    selection = Selection((2, 2, 2, 2, 2, 2))
    config = selection.config(tuner.schedule)
    corrections = fit_corrections(tuner.replays[0], config)
    assert {(each.si, each.module) for each in corrections} == {(3, m) for m in range(6)}
    # Of one module: what follows from several depends on which tokens are drawn.
    selection = Selection((1, 0, 0, 0, 0, 0))
    corrections = fit_corrections(tuner.replays[0], selection.config(tuner.schedule))
    trial = Trial(tuner.replays[:1], tuner.schedule)
    assert trial.error(selection, corrections) < trial.error(selection)


def test_a_fit_finds_scale_and_shift():
    import torch

    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    y = x * torch.tensor([0.5, 1.0, 1.5]) + torch.tensor([1.0, 0.0, -2.0])
    scale, shift = fitted(x, y)
    assert scale.tolist() == pytest.approx([0.5, 1.0, 1.5], abs=0.03)
    assert shift.tolist() == pytest.approx([1.0, 0.0, -2.0], abs=0.05)


def test_a_tuned_plan_says_what_it_gives_and_draws_it(tuner, pipeline, tmp_path):
    plan = tuner.tune(Target("target_saved", 0.4), tries=4)
    assert 0.4 <= plan.predicted["saved_share"] < 0.5
    checked = plan.verify(pipeline, ["a green fox"], quiet=True)
    assert checked.measured["saved_share"] == pytest.approx(plan.predicted["saved_share"])
    assert 0 < checked.measured["ssim"] < 1
    pipeline.set_plan(checked.save(tmp_path / "plan.json"))
    assert pipeline.transformer.cache_config == plan.config
    picture = pipeline("a green fox", quiet=True).results[0]
    assert pipeline.redraw(picture.metadata).tobytes() == picture.image.tobytes()
    pipeline.set_plan(None)
    assert not pipeline.transformer.cache_config.changes_anything


def test_pictures_of_whole_plans_are_remembered(tuner):
    tuner.measure_pictures()
    pictures = tuner.known.pictures
    assert len(pictures) >= 4
    assert pictures[0].ssim > pictures[-1].ssim
    plan = tuner.tune(Target("min_ssim", pictures[1].ssim), tries=3, affine=False)
    assert plan.predicted["saved_share"] > 0


@pytest.fixture
def files(tmp_path, checkpoint, monkeypatch):
    """A folder with prompts; runs ``hart``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red star\na blue ring\na green fox\n")

    def run(command: str, *arguments: str) -> int:
        model = ("--model_path", str(checkpoint), "--device", "cpu", "--quiet")
        return main([command, *model, "--no-use_llm_system_prompt", *arguments])

    return run


def test_one_command_finds_verifies_and_draws(files, tmp_path):
    tune = ("--prompts_file", "prompts.txt", "--refine", "2", "--target-saved", "0.4")
    assert files("tune", *tune) == 0
    plan = StoredPlan.load("plan.json")
    assert plan.measured["images"] == 1
    assert plan.origin.settings["target"] == {"target_saved": 0.4}
    known = ("--measurements", "plan.measurements.json", "--refine", "0", "--held_out", "0")
    assert files("tune", *known, "--target-saved", "0.3", "--output", "b.json") == 0
    assert files("tune", *known, "--target-saved", "0.99") == 2
    assert files("generate", "--plan", "b.json", "--prompts", "a red star") == 0
    report = json.loads((tmp_path / "samples" / "generation_results.json").read_text())
    assert report["settings"]["plan"] == "b.json"
    assert report["summary"]["multiply_adds_saved"] > 0


def test_quality_levels_stand_beside_the_checkpoint(files, checkpoint, capsys):
    assert files("generate", "--quality", "fast", "--prompts", "x") == 0
    assert "no plan 'fast'" in capsys.readouterr().err
    tune = ("--prompts_file", "prompts.txt", "--refine", "1", "--held_out", "0")
    assert files("tune", *tune, "--quality-levels") == 0
    written = sorted(file.name for file in (checkpoint / "llm" / "plans").iterdir())
    assert written == ["balanced.json", "fast.json", "high.json"]
    assert files("generate", "--quality", "fast", "--prompts", "x") == 0
    assert "no plan" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--target-saved", "0.4", "--min-ssim", "0.9"),
        ("--target-saved", "0.4", "--pareto", "x"),
        ("--measure", "a.json", "--measurements", "b.json", "--target-saved", "0.4"),
        ("--target-saved", "0.4", "--prompts_file", "prompts.txt", "--held_out", "3"),
    ],
)
def test_bad_command_lines_are_refused(files, arguments):
    assert files("tune", *arguments) == 2


def test_other_checkpoints_refuse_a_plan(files, pipeline, tmp_path):
    plan = StoredPlan(Selection((0,) * 6, (0.5,)).config(pipeline.transformer.schedule))
    document = plan.to_dict()
    document["origin"]["fingerprint"] = "0" * 64
    (tmp_path / "plan.json").write_text(json.dumps(document))
    assert files("generate", "--plan", "plan.json", "--prompts", "x") == 2
    assert files("generate", "--plan", "plan.json", "--quality", "high", "--prompts", "x") == 2


def test_a_level_of_quality_saves_at_most_what_can_be_saved(tuner):
    most = tuner.saving(0.999)
    assert tuner.saving(0.1).value == 0.1
    assert tuner.known.solve(target_saved=most.value).predicted["saved_share"] >= most.value - 1e-9
