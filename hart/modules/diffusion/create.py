"""One call from settings to a diffusion process."""

from __future__ import annotations

from collections.abc import Sequence

from hart.modules.diffusion.process import LossType, ModelMeanType, ModelVarType
from hart.modules.diffusion.respace import SpacedDiffusion, space_timesteps
from hart.modules.diffusion.schedules import get_named_beta_schedule


def create_diffusion(
    timestep_respacing: int | str | Sequence[int] | None,
    noise_schedule: str = "linear",
    use_kl: bool = False,
    sigma_small: bool = False,
    predict_xstart: bool = False,
    learn_sigma: bool = True,
    rescale_learned_sigmas: bool = False,
    diffusion_steps: int = 1000,
) -> SpacedDiffusion:
    """Build a diffusion process.

    Args:
        timestep_respacing: Steps to keep, as in ``space_timesteps``; ``""`` or None keeps all.
        noise_schedule: Name of the schedule, as in ``get_named_beta_schedule``.
        use_kl: Train on the variational bound alone.
        sigma_small: Without learned variance: use the smaller fixed variance.
        predict_xstart: The network predicts the clean value instead of the noise.
        learn_sigma: The network also predicts the variance, between the two fixed ones.
        rescale_learned_sigmas: Scale the variational term by the number of steps over 1000.
        diffusion_steps: Number of steps of the base process.

    Raises:
        ValueError: if the schedule is not known or the steps cannot be kept.
    """
    if timestep_respacing is None or timestep_respacing == "":
        timestep_respacing = diffusion_steps
    if use_kl:
        loss_type = LossType.RESCALED_KL
    else:
        loss_type = LossType.RESCALED_MSE if rescale_learned_sigmas else LossType.MSE
    if learn_sigma:
        variance = ModelVarType.LEARNED_RANGE
    else:
        variance = ModelVarType.FIXED_SMALL if sigma_small else ModelVarType.FIXED_LARGE
    return SpacedDiffusion(
        use_timesteps=space_timesteps(diffusion_steps, timestep_respacing),
        betas=get_named_beta_schedule(noise_schedule, diffusion_steps),
        model_mean_type=ModelMeanType.START_X if predict_xstart else ModelMeanType.EPSILON,
        model_var_type=variance,
        loss_type=loss_type,
    )
