"""Noise schedules of the forward process, as float64 numpy arrays of betas."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

# A linear schedule is defined for this many steps and stretched to any other number.
_LINEAR_REFERENCE_STEPS = 1000


def get_beta_schedule(
    beta_schedule: str, *, beta_start: float, beta_end: float, num_diffusion_timesteps: int
) -> np.ndarray:
    """Betas that run from ``beta_start`` to ``beta_end`` (Ho et al. 2020, arXiv:2006.11239).

    Args:
        beta_schedule: ``"linear"``, ``"quad"`` (linear in the square root) or ``"const"``
            (``beta_end`` throughout).
        beta_start: First beta.
        beta_end: Last beta.
        num_diffusion_timesteps: Number of steps.

    Returns:
        float64 array of shape ``(num_diffusion_timesteps,)``.

    Raises:
        ValueError: if the schedule is not known.
    """
    steps = num_diffusion_timesteps
    if beta_schedule == "linear":
        return np.linspace(beta_start, beta_end, steps, dtype=np.float64)
    if beta_schedule == "quad":
        return np.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=np.float64) ** 2
    if beta_schedule == "const":
        return np.full(steps, beta_end, dtype=np.float64)
    raise ValueError(
        f"beta_schedule is {beta_schedule!r}; known schedules are 'linear', 'quad' and 'const'"
    )


def get_named_beta_schedule(schedule_name: str, num_diffusion_timesteps: int) -> np.ndarray:
    """Betas of a schedule known by name.

    Args:
        schedule_name: ``"linear"`` (0.0001 to 0.02 for 1000 steps, stretched otherwise) or
            ``"cosine"``, also called ``"squaredcos_cap_v2"`` (Nichol and Dhariwal 2021,
            arXiv:2102.09672, equation 17).
        num_diffusion_timesteps: Number of steps.

    Returns:
        float64 array of shape ``(num_diffusion_timesteps,)``.

    Raises:
        ValueError: if the name is not known.
    """
    if schedule_name == "linear":
        stretch = _LINEAR_REFERENCE_STEPS / num_diffusion_timesteps
        return get_beta_schedule(
            "linear",
            beta_start=stretch * 0.0001,
            beta_end=stretch * 0.02,
            num_diffusion_timesteps=num_diffusion_timesteps,
        )
    if schedule_name in ("cosine", "squaredcos_cap_v2"):
        return betas_for_alpha_bar(num_diffusion_timesteps, _cosine_alpha_bar)
    raise ValueError(
        f"noise schedule is {schedule_name!r}; known schedules are 'linear' and 'cosine' "
        "(also called 'squaredcos_cap_v2')"
    )


def betas_for_alpha_bar(
    num_diffusion_timesteps: int, alpha_bar: Callable[[float], float], max_beta: float = 0.999
) -> np.ndarray:
    """Betas whose cumulative product of ``1 - beta`` follows a given function.

    Args:
        num_diffusion_timesteps: Number of steps.
        alpha_bar: The cumulative product as a function of time in ``[0, 1]``.
        max_beta: Upper bound of a beta; keeps the last step from being singular.

    Returns:
        float64 array of shape ``(num_diffusion_timesteps,)``.
    """
    steps = num_diffusion_timesteps
    return np.array(
        [min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), max_beta) for i in range(steps)]
    )


def _cosine_alpha_bar(time: float) -> float:
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
