"""Noise schedules, as float64 numpy arrays of betas, and the kinds of diffusion processes.

Sources: Ho et al. 2020 (arXiv:2006.11239); Nichol and Dhariwal 2021 (arXiv:2102.09672).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

import numpy as np


class ModelMeanType(enum.Enum):
    """What the network predicts."""

    PREVIOUS_X = enum.auto()
    START_X = enum.auto()
    EPSILON = enum.auto()


class ModelVarType(enum.Enum):
    """Where the variance of a reverse step comes from."""

    LEARNED = enum.auto()
    FIXED_SMALL = enum.auto()
    FIXED_LARGE = enum.auto()
    LEARNED_RANGE = enum.auto()


class LossType(enum.Enum):
    """Training loss."""

    MSE = enum.auto()
    RESCALED_MSE = enum.auto()
    KL = enum.auto()
    RESCALED_KL = enum.auto()

    def is_vb(self) -> bool:
        """Whether the loss is the variational bound alone."""
        return self in (LossType.KL, LossType.RESCALED_KL)


def get_beta_schedule(
    beta_schedule: str, *, beta_start: float, beta_end: float, num_diffusion_timesteps: int
) -> np.ndarray:
    """Betas (steps,) that run from ``beta_start`` to ``beta_end`` (Ho et al. 2020).

    Args:
        beta_schedule: ``"linear"``, ``"quad"`` (linear in the square root) or ``"const"``
            (``beta_end`` throughout).

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
    """Betas (steps,) of a schedule known by name.

    Args:
        schedule_name: ``"linear"`` (0.0001 to 0.02 for 1000 steps, stretched otherwise) or
            ``"cosine"``, also called ``"squaredcos_cap_v2"`` (Nichol and Dhariwal 2021,
            equation 17).

    Raises:
        ValueError: if the name is not known.
    """
    steps = num_diffusion_timesteps
    if schedule_name == "linear":
        ends = {"beta_start": 1000 / steps * 0.0001, "beta_end": 1000 / steps * 0.02}
        return get_beta_schedule("linear", num_diffusion_timesteps=steps, **ends)
    if schedule_name in ("cosine", "squaredcos_cap_v2"):
        return betas_for_alpha_bar(
            steps, lambda time: math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        )
    raise ValueError(
        f"noise schedule is {schedule_name!r}; known schedules are 'linear' and 'cosine' "
        "(also called 'squaredcos_cap_v2')"
    )


def betas_for_alpha_bar(
    num_diffusion_timesteps: int, alpha_bar: Callable[[float], float], max_beta: float = 0.999
) -> np.ndarray:
    """Betas (steps,) whose cumulative product of ``1 - beta`` follows a function of time in [0, 1].

    ``max_beta`` keeps the last step from being singular.
    """
    steps = num_diffusion_timesteps
    return np.array(
        [min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), max_beta) for i in range(steps)]
    )
