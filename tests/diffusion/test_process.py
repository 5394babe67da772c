"""Schedules, respacing and the parts of the process that the golden files do not reach."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import hart.modules.diffusion as diffusion
from hart.modules.diffusion import GaussianDiffusion, create_diffusion, space_timesteps
from hart.modules.diffusion.diffusion_utils import (
    continuous_gaussian_log_likelihood,
    discretized_gaussian_log_likelihood,
    normal_kl,
)
from hart.modules.diffusion.gaussian_diffusion import (
    LossType,
    ModelMeanType,
    ModelVarType,
    mean_flat,
)
from hart.modules.diffusion.schedules import (
    betas_for_alpha_bar,
    get_beta_schedule,
    get_named_beta_schedule,
)

# The published schedule for "8": step, beta, posterior log variance (clipped), coef x0, coef xt.
EIGHT_STEPS = [
    (0, 4.12842248e-05, -10.09574085, 1.0, 0.0),
    (143, 0.0548782026, -10.09574085, 0.99926887, 7.30835223e-04),
    (285, 0.148745740, -3.1752209, 0.73968269, 0.259181618),
    (428, 0.249545695, -2.09464068, 0.56485851, 0.427386850),
    (571, 0.366071921, -1.44817227, 0.46080639, 0.511117028),
    (714, 0.517565792, -0.93694013, 0.39270293, 0.525830237),
    (856, 0.735438841, -0.46133374, 0.33224843, 0.440922015),
    (999, 0.999999950, -0.05008272, 0.22101857, 2.12086735e-04),
]


def make_process(mean=ModelMeanType.EPSILON, var=ModelVarType.FIXED_SMALL, loss=LossType.MSE):
    betas = get_named_beta_schedule("cosine", 20)
    return GaussianDiffusion(betas=betas, model_mean_type=mean, model_var_type=var, loss_type=loss)


@pytest.mark.parametrize("respacing", ["8", 8, [8]])
def test_eight_step_table_for_every_spelling_of_the_number(respacing):
    process = create_diffusion(respacing, noise_schedule="cosine")
    actual = zip(
        process.timestep_map,
        process.betas,
        process.posterior_log_variance_clipped,
        process.posterior_mean_coef1,
        process.posterior_mean_coef2,
        strict=True,
    )
    np.testing.assert_allclose(list(actual), EIGHT_STEPS, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("respacing", [None, ""])
def test_no_respacing_keeps_every_step(respacing):
    process = create_diffusion(respacing, noise_schedule="linear", diffusion_steps=50)
    np.testing.assert_allclose(process.betas, get_named_beta_schedule("linear", 50), rtol=1e-9)


def test_respaced_process_has_the_base_noise_level_at_kept_steps():
    base = create_diffusion("", noise_schedule="cosine")
    spaced = create_diffusion("3,4", noise_schedule="cosine")
    np.testing.assert_allclose(
        spaced.alphas_cumprod, base.alphas_cumprod[spaced.timestep_map], rtol=1e-8
    )


def test_network_is_told_the_base_step_for_int_and_tensor_steps():
    process = create_diffusion("8", noise_schedule="cosine")
    x = torch.zeros(2, 3)
    assert process.network_timesteps(1, x).tolist() == [143, 143]
    assert process.network_timesteps(torch.tensor([7, 2]), x).tolist() == [999, 285]


def test_sections_get_their_own_counts_and_the_remainder_goes_first():
    # 10 steps in 3 sections: sizes 4, 3, 3.
    assert sorted(space_timesteps(10, "2,1,3")) == [0, 3, 4, 7, 8, 9]


@pytest.mark.parametrize("bad", ["", "0", "-3", "x", "8,", 0, "1001", "600,600", "ddim", "ddim7x"])
def test_impossible_section_counts_are_refused(bad):
    with pytest.raises(ValueError, match="section"):
        space_timesteps(1000, bad)


def test_ddim_without_an_integer_stride_is_refused():
    with pytest.raises(ValueError, match="ddim600"):
        space_timesteps(1000, "ddim600")


def test_steps_outside_the_base_process_are_refused():
    with pytest.raises(ValueError, match="use_timesteps"):
        diffusion.SpacedDiffusion(
            use_timesteps={5, 20},
            betas=get_named_beta_schedule("cosine", 20),
            model_mean_type=ModelMeanType.EPSILON,
            model_var_type=ModelVarType.FIXED_SMALL,
            loss_type=LossType.MSE,
        )


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.5, 1.5], [[0.1]]])
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        GaussianDiffusion(
            betas=np.array(betas),
            model_mean_type=ModelMeanType.EPSILON,
            model_var_type=ModelVarType.FIXED_SMALL,
            loss_type=LossType.MSE,
        )


def test_schedule_names_and_ends():
    linear = get_named_beta_schedule("linear", 500)
    assert linear[[0, -1]] == pytest.approx([2e-4, 4e-2])
    quad = get_beta_schedule("quad", beta_start=0.01, beta_end=0.09, num_diffusion_timesteps=3)
    assert quad == pytest.approx([0.01, 0.04, 0.09])
    const = get_beta_schedule("const", beta_start=0.0, beta_end=0.5, num_diffusion_timesteps=2)
    assert const == pytest.approx([0.5, 0.5])
    assert betas_for_alpha_bar(2, lambda u: 1 - u) == pytest.approx([0.5, 0.999])
    with pytest.raises(ValueError, match="sigmoid"):
        get_named_beta_schedule("sigmoid", 10)
    with pytest.raises(ValueError, match="sigmoid"):
        get_beta_schedule("sigmoid", beta_start=0.1, beta_end=0.2, num_diffusion_timesteps=10)


def test_int_step_and_tensor_step_give_the_same_bits():
    process = create_diffusion("8", noise_schedule="cosine")
    x, noise = torch.randn(2, 4, 3)

    def model(x, t):
        return torch.cat([x.sin(), x.cos()], dim=1) * t[:, None] / 999

    for step in range(8):
        one = process.p_sample(model, x, step, noise=noise)
        many = process.p_sample(model, x, torch.full((4,), step), noise=noise)
        assert torch.equal(one["sample"], many["sample"])
        assert torch.equal(one["pred_xstart"], many["pred_xstart"])


@pytest.mark.parametrize("mean_type", list(ModelMeanType))
def test_a_perfect_prediction_recovers_the_clean_value(mean_type):
    process = make_process(mean_type)
    x_start, noise = torch.rand(4, 3) * 2 - 1, torch.randn(4, 3)
    t = torch.tensor([0, 5, 10, 15])
    x_t = process.q_sample(x_start, t, noise)
    previous_mean, _, _ = process.q_posterior_mean_variance(x_start, x_t, t)
    answers = {
        ModelMeanType.EPSILON: noise,
        ModelMeanType.START_X: x_start,
        ModelMeanType.PREVIOUS_X: previous_mean,
    }
    estimate = process.p_mean_variance(lambda *_: answers[mean_type], x_t, t)
    torch.testing.assert_close(estimate["pred_xstart"], x_start, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(estimate["mean"], previous_mean, atol=2e-4, rtol=1e-4)
    losses = process.training_losses(lambda *_: answers[mean_type], x_start, t, noise=noise)
    torch.testing.assert_close(losses["loss"], torch.zeros(4), atol=1e-8, rtol=0)


def test_learned_range_runs_between_the_two_fixed_variances():
    x, t = torch.zeros(1, 2), 7
    small = make_process(var=ModelVarType.FIXED_SMALL)
    large = make_process(var=ModelVarType.FIXED_LARGE)
    ranged = make_process(var=ModelVarType.LEARNED_RANGE)
    free = make_process(var=ModelVarType.LEARNED)

    def log_variance(process, *variance_output):
        output = torch.tensor([[0.0, 0.0, *variance_output]])
        return process.p_mean_variance(lambda *_: output, x, t)["log_variance"]

    torch.testing.assert_close(log_variance(ranged, -1.0, -1.0), log_variance(small))
    torch.testing.assert_close(log_variance(ranged, 1.0, 1.0), log_variance(large))
    assert log_variance(free, -3.0, 2.0).tolist() == [[-3.0, 2.0]]


def test_forward_process_moments_match_its_samples():
    process = make_process()
    x_start = torch.full((1, 100_000), 0.5)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x_start.shape, generator=generator)
    mean, variance, log_variance = process.q_mean_variance(x_start, 10)
    sample = process.q_sample(x_start, 10, noise)
    assert sample.mean().item() == pytest.approx(mean[0, 0].item(), abs=0.01)
    assert sample.var().item() == pytest.approx(variance[0, 0].item(), rel=0.02)
    torch.testing.assert_close(log_variance.exp(), variance)


def test_kl_losses_are_the_bound_and_its_rescaling():
    x_start, noise, t = torch.rand(3, 2) * 2 - 1, torch.randn(3, 2), torch.tensor([0, 4, 9])

    def loss(loss_type):
        process = make_process(loss=loss_type)
        return process.training_losses(lambda x, t: x * 0.3, x_start, t, noise=noise)["loss"]

    assert (loss(LossType.KL) > 0).all()
    torch.testing.assert_close(loss(LossType.RESCALED_KL), loss(LossType.KL) * 20)


def test_variational_term_does_not_train_the_mean():
    process = make_process(var=ModelVarType.LEARNED_RANGE)
    output = torch.zeros(2, 4, requires_grad=True)
    terms = process.training_losses(
        lambda *_: output, torch.rand(2, 2), torch.tensor([3, 8]), noise=torch.randn(2, 2)
    )
    (gradient,) = torch.autograd.grad(terms["vb"].sum(), output)
    assert gradient[:, :2].abs().max() == 0
    assert gradient[:, 2:].abs().min() > 0


def test_gradient_guidance_shifts_the_mean_by_variance_times_gradient():
    process = make_process()
    x, noise = torch.zeros(2, 3), torch.zeros(2, 3)
    plain = process.p_sample(lambda x, t: x, x, 7, noise=noise)["sample"]
    guided = process.p_sample(
        lambda x, t: x, x, 7, noise=noise, cond_fn=lambda x, t: torch.full_like(x, 2.0)
    )["sample"]
    expected = torch.full((2, 3), 2 * process.posterior_variance[7]).float()
    torch.testing.assert_close(guided - plain, expected)


def test_denoised_fn_is_applied_before_clamping():
    process = make_process(ModelMeanType.START_X)
    estimate = process.p_mean_variance(
        lambda x, t: x, torch.full((1, 2), 0.9), 3, denoised_fn=lambda x: x * 2
    )
    assert estimate["pred_xstart"].tolist() == [[1.0, 1.0]]


def test_loop_draws_everything_from_the_global_generator_by_default():
    process = create_diffusion("4", noise_schedule="cosine", learn_sigma=False)
    net = torch.nn.Identity()

    def model(x, t):
        return net(x)

    torch.manual_seed(5)
    drawn = process.p_sample_loop(model, (2, 3), device="cpu")
    torch.manual_seed(5)
    noise = [torch.randn(2, 3) for _ in range(5)]
    given = process.p_sample_loop(
        model, (2, 3), noise[0], noise_source=lambda shape, kind: noise.pop(1)
    )
    assert torch.equal(drawn, given)


def test_initial_noise_of_a_wrong_shape_is_refused():
    process = create_diffusion("4", noise_schedule="cosine", learn_sigma=False)
    with pytest.raises(ValueError, match="initial noise"):
        process.p_sample_loop(lambda x, t: x, (2, 3), torch.zeros(3, 3))


def test_network_output_without_a_variance_is_refused():
    process = create_diffusion("4", noise_schedule="cosine")
    with pytest.raises(ValueError, match="expected"):
        process.p_mean_variance(lambda x, t: x, torch.zeros(2, 3), 0)


def test_normal_kl_of_known_distributions():
    zero = torch.zeros(1)
    assert normal_kl(zero, 0.0, 0.0, 0.0).item() == 0
    assert normal_kl(zero + 3, 0.0, 0.0, 0.0).item() == pytest.approx(4.5)
    # N(0, 1) against N(0, 4): ln 2 + 1/8 - 1/2.
    assert normal_kl(zero, 0.0, 0.0, math.log(4.0)).item() == pytest.approx(
        math.log(2) + 0.125 - 0.5
    )
    with pytest.raises(TypeError, match="tensor"):
        normal_kl(0.0, 0.0, 0.0, 0.0)


def test_discretized_likelihood_is_a_distribution_over_the_256_levels():
    levels = torch.linspace(-1, 1, 256)
    log_p = discretized_gaussian_log_likelihood(
        levels, means=torch.full_like(levels, 0.9), log_scales=torch.full_like(levels, -2.0)
    )
    assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="one shape"):
        discretized_gaussian_log_likelihood(levels, means=levels[:3], log_scales=levels)


def test_continuous_likelihood_is_the_normal_density():
    x, mean, log_scale = torch.tensor([0.3]), torch.tensor([0.1]), torch.tensor([-0.5])
    expected = torch.distributions.Normal(mean, log_scale.exp()).log_prob(x)
    torch.testing.assert_close(
        continuous_gaussian_log_likelihood(x, means=mean, log_scales=log_scale), expected
    )


def test_mean_flat_keeps_rows():
    assert mean_flat(torch.arange(8.0).reshape(2, 2, 2)).tolist() == [1.5, 5.5]


def test_create_diffusion_maps_its_switches():
    plain = create_diffusion("4")
    assert plain.model_mean_type is ModelMeanType.EPSILON
    assert plain.model_var_type is ModelVarType.LEARNED_RANGE
    assert plain.loss_type is LossType.MSE
    other = create_diffusion("4", use_kl=True, predict_xstart=True, learn_sigma=False)
    assert other.model_mean_type is ModelMeanType.START_X
    assert other.model_var_type is ModelVarType.FIXED_LARGE
    assert other.loss_type is LossType.RESCALED_KL
    third = create_diffusion("4", sigma_small=True, learn_sigma=False, rescale_learned_sigmas=True)
    assert third.model_var_type is ModelVarType.FIXED_SMALL
    assert third.loss_type is LossType.RESCALED_MSE


def test_module_alias_for_the_process_module():
    assert diffusion.gd.GaussianDiffusion is GaussianDiffusion
