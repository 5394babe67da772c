"""The diffusion head against the reference numbers of the public implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hart.modules.diffusion import create_diffusion, space_timesteps
from hart.modules.diffusion.diffloss import DiffLoss
from tests.golden_data import GoldenCase, load_case

SAMPLES = ["sample_cfg2.5", "sample_cfg1.0", "sample_cfg2.0_temp0.7"]
PREFIX = "diffloss."
# float32 on another processor; sampling multiplies the network's rounding by up to 20291.
NETWORK = {"atol": 2e-5, "rtol": 1e-5}
SAMPLING = {"atol": 2e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def case() -> GoldenCase:
    return load_case("llama-shared-aln")


@pytest.fixture(scope="module")
def head(case) -> DiffLoss:
    config = case.config
    head = DiffLoss(
        target_channels=32,
        z_channels=config["embed_dim"],
        depth=config["diff_depth"],
        width=config["diff_width"],
        num_sampling_steps=config["num_sampling_steps"],
        sampler=config["sampler"],
    )
    weights = case.weights()
    own = {k[len(PREFIX) :]: v for k, v in weights.items() if k.startswith(PREFIX)}
    head.load_state_dict(own, strict=True)
    return head.eval()


@torch.no_grad()
def test_timestep_embedding_matches(case, head):
    actual = head.net.time_embed(case.inputs["diff.t"])
    torch.testing.assert_close(actual, case.outputs["diff.time_embed"], **NETWORK)


@torch.no_grad()
def test_network_output_matches(case, head):
    x, t, c = (case.inputs[f"diff.{name}"] for name in "xtc")
    torch.testing.assert_close(head.net(x, t, c), case.outputs["diff.net"], **NETWORK)


@torch.no_grad()
def test_guided_network_output_matches(case, head):
    x, t, c = (case.inputs[f"diff.{name}"] for name in "xtc")
    actual = head.net.forward_with_cfg(x, t, c, 3.0)
    torch.testing.assert_close(actual, case.outputs["diff.net_cfg3"], **NETWORK)


@pytest.mark.parametrize("name", SAMPLES)
def test_seeded_sample_draws_and_computes_as_the_reference(case, head, name):
    settings = case.meta["diffusion"]["samples"][name]
    torch.manual_seed(settings["torch_manual_seed"])
    actual = head.sample(
        case.inputs["diff.c"], temperature=settings["temperature"], cfg=settings["cfg"]
    )
    torch.testing.assert_close(actual, case.outputs[f"diff.{name}.out"], **SAMPLING)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sampling_step_matches(case, head, name):
    settings = case.meta["diffusion"]["samples"][name]
    c, cfg = case.inputs["diff.c"], settings["cfg"]
    initial = case.inputs[f"diff.{name}.noise_init"]
    initial = initial.repeat(len(c) // len(initial), 1)
    step_noise = iter(case.inputs[f"diff.{name}.noise_steps"])
    guided = cfg != 1.0
    results = head.gen_diffusion.p_sample_loop_progressive(
        head.net.forward_with_cfg if guided else head.net,
        initial.shape,
        initial,
        model_kwargs={"c": c, "cfg_scale": cfg} if guided else {"c": c},
        temperature=settings["temperature"],
        noise_source=lambda shape, kind: next(step_noise),
    )
    results = list(results)
    for key, recorded in (("sample", "steps_sample"), ("pred_xstart", "steps_pred_xstart")):
        actual = torch.stack([result[key] for result in results])
        torch.testing.assert_close(actual, case.outputs[f"diff.{name}.{recorded}"], **SAMPLING)


@pytest.mark.parametrize("name", SAMPLES)
def test_recorded_noise_through_a_noise_source_gives_the_recorded_sample(case, head, name):
    settings = case.meta["diffusion"]["samples"][name]
    initial = case.inputs[f"diff.{name}.noise_init"]
    steps = iter(case.inputs[f"diff.{name}.noise_steps"])

    def noise_source(shape, kind):
        return initial if kind == "initial" else next(steps)[: shape[0]]

    actual = head.sample(
        case.inputs["diff.c"], settings["temperature"], settings["cfg"], noise_source=noise_source
    )
    rows = len(initial)
    expected = case.outputs[f"diff.{name}.out"][:rows]
    torch.testing.assert_close(actual[:rows], expected, **SAMPLING)


def test_sampling_schedule_matches(case, head):
    process = head.gen_diffusion
    assert process.timestep_map == case.outputs["diff.gen.timestep_map"].tolist()
    for name in (
        "alphas_cumprod",
        "betas",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    ):
        expected = case.outputs[f"diff.gen.{name}"].numpy()
        np.testing.assert_allclose(getattr(process, name), expected, rtol=1e-12, atol=0)


def test_training_schedule_matches(case, head):
    process = head.train_diffusion
    assert process.timestep_map == case.outputs["diff.train.timestep_map"].tolist()
    for name in ("alphas_cumprod", "betas"):
        expected = case.outputs[f"diff.train.{name}"].numpy()
        np.testing.assert_allclose(getattr(process, name), expected, rtol=1e-11, atol=0)


def test_training_loss_terms_match(case, head):
    inputs = case.inputs
    with torch.no_grad():
        terms = head.train_diffusion.training_losses(
            head.net,
            inputs["diff.loss.target"] / 0.6,
            inputs["diff.loss.t"],
            model_kwargs={"c": inputs["diff.c"]},
            noise=inputs["diff.loss.noise"],
        )
    for name in ("loss", "mse", "vb"):
        expected = case.outputs[f"diff.loss.terms.{name}"]
        torch.testing.assert_close(terms[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_seeded_training_loss_matches(case, head, masked):
    torch.manual_seed(case.meta["diffusion"]["loss"]["torch_manual_seed"])
    mask = case.inputs["diff.loss.mask"] if masked else None
    actual = head(case.inputs["diff.loss.target"], case.inputs["diff.c"], mask).detach()
    expected = case.outputs["diff.loss_masked.value" if masked else "diff.loss.value"]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_kept_timesteps_match_for_every_recorded_setting(case):
    recorded = case.meta["diffusion"]["space_timesteps_1000"]
    assert {s: sorted(space_timesteps(1000, s)) for s in recorded} == recorded


def test_the_training_process_is_the_full_cosine_process():
    process = create_diffusion("", noise_schedule="cosine")
    assert process.timestep_map == list(range(1000))
