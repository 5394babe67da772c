"""A diffusion process that visits only some steps of a longer one, and making one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from hart.modules.diffusion.gaussian_diffusion import GaussianDiffusion
from hart.modules.diffusion.schedules import (
    LossType,
    ModelMeanType,
    ModelVarType,
    get_named_beta_schedule,
)


def space_timesteps(num_timesteps: int, section_counts: int | str | Sequence[int]) -> set[int]:
    """Choose the steps to keep of a process of ``num_timesteps`` steps.

    It is cut into as many equal sections as there are counts, a number, a sequence of numbers, or
    a comma-separated string. Each section keeps its count of evenly spaced steps, both ends
    included. The string ``"ddimN"`` takes every ``k``-th step instead, with the integer ``k`` that
    gives exactly ``N`` steps.

    Returns:
        The kept step numbers, in ``0 .. num_timesteps - 1``.

    Raises:
        ValueError: if no integer stride gives ``N`` steps, a count is not a positive number,
            or a section has fewer steps than its count.
    """
    if isinstance(section_counts, str) and section_counts.startswith("ddim"):
        return _strided_steps(num_timesteps, section_counts)
    counts = _parse_counts(section_counts)
    size, longer_sections = divmod(num_timesteps, len(counts))
    steps: set[int] = set()
    start = 0
    for index, count in enumerate(counts):
        section_size = size + (1 if index < longer_sections else 0)
        if count > section_size:
            raise ValueError(
                f"section {index} of {section_counts!r} keeps {count} steps, but has only "
                f"{section_size} of the {num_timesteps}"
            )
        steps.update(start + offset for offset in _evenly_spaced(section_size, count))
        start += section_size
    return steps


def _parse_counts(section_counts: int | str | Sequence[int]) -> list[int]:
    parts = section_counts.split(",") if isinstance(section_counts, str) else section_counts
    try:
        counts = [int(part) for part in ([parts] if isinstance(parts, int) else parts)]
    except (TypeError, ValueError):
        counts = []
    if not counts or min(counts) < 1:
        raise ValueError(
            f"section_counts is {section_counts!r}; allowed are positive numbers, such as 8, "
            "'8' or '10,20', and 'ddimN'"
        )
    return counts


def _strided_steps(num_timesteps: int, section_counts: str) -> set[int]:
    digits = section_counts[len("ddim") :]
    wanted = int(digits) if digits.isdecimal() else 0
    for stride in range(1, num_timesteps):
        if len(range(0, num_timesteps, stride)) == wanted:
            return set(range(0, num_timesteps, stride))
    raise ValueError(
        f"section_counts is {section_counts!r}: no integer stride gives that number of steps "
        f"out of {num_timesteps}"
    )


def _evenly_spaced(size: int, count: int) -> list[int]:
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    position, offsets = 0.0, []
    for _ in range(count):
        offsets.append(round(position))
        # A running sum, because its rounding error decides ties exactly as in the reference.
        position += stride
    return offsets


class SpacedDiffusion(GaussianDiffusion):
    """A process restricted to chosen steps of a base process.

    The betas are recomputed so that the noise level at each kept step is unchanged, and the
    network is told the base process's step number.

    Args:
        use_timesteps: Base steps to keep.
        **kwargs: Arguments of :class:`GaussianDiffusion`; ``betas`` are the base process's.

    Attributes:
        timestep_map: The base step of each kept step, ascending.
        original_num_steps: Number of steps of the base process.

    Raises:
        ValueError: if no step is kept, or one does not exist.
    """

    def __init__(self, use_timesteps: Collection[int], **kwargs) -> None:
        base = GaussianDiffusion(**kwargs)
        self.use_timesteps = set(use_timesteps)
        self.timestep_map = sorted(self.use_timesteps)
        self.original_num_steps = base.num_timesteps
        allowed = range(self.original_num_steps)
        if not self.timestep_map or not self.use_timesteps.issubset(allowed):
            raise ValueError(
                f"use_timesteps is {self.timestep_map}; it needs at least one step, all within "
                f"0 .. {self.original_num_steps - 1}"
            )
        kept = base.alphas_cumprod[self.timestep_map]
        kwargs["betas"] = 1.0 - kept / np.append(1.0, kept[:-1])
        super().__init__(**kwargs)

    def network_timesteps(self, t: Tensor | int, x: Tensor) -> Tensor:
        """Step numbers of the base process for the rows of ``x``; see the base class."""
        if not isinstance(t, Tensor):
            return super().network_timesteps(self.timestep_map[t], x)
        steps = torch.tensor(self.timestep_map, dtype=torch.int64, device=x.device)
        return steps[t.to(x.device)]


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
        timestep_respacing: As in ``space_timesteps``; ``""`` or None keeps all.
        noise_schedule: As in ``get_named_beta_schedule``.
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
