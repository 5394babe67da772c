"""Plans as files: what they say is what is drawn, and damaged or foreign ones are refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from hart.engine import Engine
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.corrections import Correction
from hart.modules.networks.caching.plan_files import PlanFileError, PlanOrigin, StoredPlan
from hart.modules.networks.caching.plan_format import any_config_from_dict
from hart.modules.networks.caching.stages import StageSchedule
from hart.modules.networks.caching.tuned_config import last_stages, mapped, tuned_config
from tests.tiny_models import HART_SIDES, draw, tiny_model

SCHEDULE = StageSchedule(HART_SIDES)
CORRECTION = Correction.of(3, 1, torch.linspace(0.5, 1, 32), torch.linspace(-1, 1, 32))
CHOICES = {
    "reuse": {"reused": last_stages(SCHEDULE, 1, 2) | last_stages(SCHEDULE, 2, 1)},
    "corrected": {"reused": last_stages(SCHEDULE, 1, 2), "corrections": [CORRECTION]},
    "pruned by module": {"pruned": {5: 0.5}},
    "pruned by stage": {"pruned": {4: 0.25, 5: 0.5}, "token_choice": "stage"},
    "everything": {
        "reused": last_stages(SCHEDULE, 1, 2) | last_stages(SCHEDULE, 4, 2),
        "pruned": {5: 0.5},
        "token_choice": "stage",
        "guidance_stop": 5,
        "corrections": [CORRECTION],
    },
}


@pytest.fixture(scope="module")
def model():
    return tiny_model(HARTForT2IEnhanced)


def config_of(name: str):
    return tuned_config(SCHEDULE, 3, **CHOICES[name])


def document(model, name: str = "everything") -> dict:
    return StoredPlan(config_of(name), PlanOrigin(model.weight_fingerprint(), 4)).to_dict()


@pytest.mark.parametrize("name", CHOICES)
def test_the_engine_draws_what_the_plain_path_draws(model, name):
    model.set_cache_config("no-cache")
    uncached = draw(model, 2)
    model.set_cache_config(config_of(name))
    plain, fast = draw(model, 2), draw(model, 2, steps=Engine(model))
    assert (plain - fast).abs().max() < 1e-4
    assert (plain - uncached).abs().mean() > 1e-3


@pytest.mark.parametrize("name", CHOICES)
def test_a_plan_is_read_as_it_was_written(model, tmp_path, name):
    plan = StoredPlan(config_of(name), PlanOrigin(model.weight_fingerprint()), {"ssim": 0.9})
    assert StoredPlan.load(plan.save(tmp_path / "new" / "plan.json"), model) == plan
    assert any_config_from_dict(json.loads(json.dumps(plan.config.to_dict()))) == plan.config


def test_a_shift_of_one_is_added_to_what_is_kept(model):
    """Bilinear interpolation keeps constants, so that a corrected zero is the shift itself."""
    model.set_cache_config(config_of("reuse"))
    reused = draw(model, 1)
    neutral = Correction.of(3, 1, torch.ones(32), torch.zeros(32))
    reuse = CHOICES["reuse"]
    model.set_cache_config(tuned_config(SCHEDULE, 3, **reuse, corrections=[neutral]))
    assert torch.equal(draw(model, 1), reused)


def test_the_saved_work_is_counted(model):
    model.set_cache_config(config_of("pruned by stage"))
    model.reset_cache_statistics()
    draw(model, 1, steps=Engine(model))
    assert model.get_cache_statistics()["saved_share_by"]["pruning"] > 0.1


def test_an_empty_plan_is_the_uncached_picture_to_the_bit(model):
    model.set_cache_config("no-cache")
    uncached = draw(model, 1, steps=Engine(model))
    model.set_cache_config(tuned_config(SCHEDULE, 3))
    assert torch.equal(draw(model, 1, steps=Engine(model)), uncached)
    assert model.decision_plan().reasons


BAD = {
    "format": ("other", "expected format 'hart-plan'"),
    "format_version": (2, "expected format_version 1"),
    "predicted": ([], "predicted must be an object"),
    "plan.depth": (0, "depth must be within 1 to 1024"),
    "plan.patch_nums": ([3, 2], "strictly increasing"),
    "plan.token_choice": ("row", "token_choice must be one of module, stage"),
    "plan.interpolation_mode": (["bilinear"], "interpolation_mode must be one of"),
    "plan.guidance_stop_stage": (50, "guidance_stop_stage must be one of the stages"),
    "plan.prune_stages": ({"49": 1.0}, "prune_stages at 49 must be within"),
    "plan.reuse": ({"49": {"attn": "rr", "mlp": "..."}}, "must be 3 letters"),
    "plan.reuse.49": ({"attn": "..."}, "mlp is missing"),
    "plan.corrections": ([{"stage": 16}], "site is missing"),
    "origin.fingerprint": (7, "fingerprint of origin has the type int"),
}


@pytest.mark.parametrize("place", BAD)
def test_damage_is_named(model, tmp_path, place):
    value, message = BAD[place]
    damaged = copy.deepcopy(document(model))
    *outer, last = place.split(".")
    inner = damaged
    for key in outer:
        inner = inner[key]
    inner[last] = value
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(damaged))
    with pytest.raises(PlanFileError, match=message) as caught:
        StoredPlan.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("values", ["!", "AAA=", "AHwAAA==", ""])
def test_corrections_that_are_no_numbers_are_refused(model, values):
    damaged = document(model)
    damaged["plan"]["corrections"][0]["values"] = values
    with pytest.raises(ValueError, match="values of corrections"):
        StoredPlan.from_dict(damaged)


def test_other_models_are_refused(model):
    plan = StoredPlan.from_dict(document(model))
    with pytest.raises(ValueError, match=r"this model's are 1, 4, 9, 16, 25$"):
        plan.require(tiny_model(HARTForT2IEnhanced, patch_nums=HART_SIDES[:-1]))
    with pytest.raises(ValueError, match="for 3 blocks; this model has 2"):
        plan.require(tiny_model(HARTForT2IEnhanced, depth=2))
    with pytest.raises(ValueError, match="for the weights"):
        plan.require(tiny_model(HARTForT2IEnhanced, seed=4))
    with pytest.raises(ValueError, match="this model has 2"):
        tiny_model(HARTForT2IEnhanced, depth=2).set_cache_config(plan.config)


def test_a_plan_moves_to_another_model_by_relative_depth_and_stage(model):
    moved = mapped(config_of("everything"), StageSchedule((*HART_SIDES, 9)), 6)
    assert moved.letters(6, "attn") == "....rr"
    assert moved.letters(6, "mlp") == "rr...."
    assert moved.letters(4, "mlp") == "......"
    assert (moved.prune_stages, moved.guidance_stop_stage) == (((81, 0.5),), 81)
    assert mapped(config_of("reuse"), SCHEDULE, 3) == config_of("reuse")


def test_a_plan_fits_a_screen(model):
    text = str(StoredPlan(config_of("everything"), predicted={"ssim": 0.9}, measured={}))
    assert "   49     m.a   50%  -" in text
    assert "0.9000" in text
    assert len(text.splitlines()) < 24
    assert max(map(len, text.splitlines())) <= 100
