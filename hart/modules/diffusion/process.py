"""Schedules, forward process and reverse-step estimates of Gaussian diffusion.

Sources: Ho et al. 2020 (arXiv:2006.11239); Nichol and Dhariwal 2021 (arXiv:2102.09672).

Notation: ``x_start`` is the clean value, ``x_t`` the value after step ``t`` of the forward
process ``q``, ``alphas_cumprod[t]`` the fraction of the signal's variance left then. Schedules
are float64 numpy arrays; a value looked up in one is rounded to float32 before use, so no
float64 tensor exists on any device.

Wherever a function takes ``t`` it is an int64 tensor of shape ``(rows,)``, or one int that
holds for all rows, which needs no transfer to the device.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


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


_LEARNED_VARIANCES = (ModelVarType.LEARNED, ModelVarType.LEARNED_RANGE)


def mean_flat(tensor: Tensor) -> Tensor:
    """Mean over all axes but the first: ``(rows, ...)`` to ``(rows,)``."""
    return tensor.flatten(1).mean(dim=1)


class DiffusionProcess:
    """One schedule: its forward process and the estimate of one reverse step.

    Args:
        betas: Variances added per step, ``(steps,)`` in ``(0, 1]``.
        model_mean_type: What the network predicts.
        model_var_type: Where the reverse variance comes from. If it is learned the network
            has twice as many output channels (axis 1); the second half are the variances.
        loss_type: Training loss.

    Raises:
        ValueError: if the betas are not one axis of numbers in ``(0, 1]``.
    """

    def __init__(
        self,
        *,
        betas: np.ndarray,
        model_mean_type: ModelMeanType,
        model_var_type: ModelVarType,
        loss_type: LossType,
    ) -> None:
        self.model_mean_type = model_mean_type
        self.model_var_type = model_var_type
        self.loss_type = loss_type
        betas = np.array(betas, dtype=np.float64)
        if betas.ndim != 1 or not betas.size or not ((betas > 0) & (betas <= 1)).all():
            raise ValueError(
                f"betas must be one axis of numbers in (0, 1], got shape {betas.shape}: {betas}"
            )
        self.betas = betas
        self.num_timesteps = len(betas)
        self._derive_schedules()

    def _derive_schedules(self) -> None:
        betas = self.betas
        alphas = 1.0 - betas
        self.alphas_cumprod = cumprod = np.cumprod(alphas)
        self.alphas_cumprod_prev = cumprod_prev = np.append(1.0, cumprod[:-1])
        self.alphas_cumprod_next = np.append(cumprod[1:], 0.0)
        self.sqrt_alphas_cumprod = np.sqrt(cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1.0 - cumprod)
        self.log_one_minus_alphas_cumprod = np.log(1.0 - cumprod)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1.0 / cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1.0 / cumprod - 1)
        self.posterior_variance = betas * (1.0 - cumprod_prev) / (1.0 - cumprod)
        # The first posterior variance is zero: its logarithm is replaced by the second's.
        clipped = self.posterior_variance.copy()
        clipped[0] = clipped[1] if len(clipped) > 1 else betas[0]
        self.posterior_log_variance_clipped = np.log(clipped)
        self.log_betas = np.log(betas)
        self.posterior_mean_coef1 = betas * np.sqrt(cumprod_prev) / (1.0 - cumprod)
        self.posterior_mean_coef2 = (1.0 - cumprod_prev) * np.sqrt(alphas) / (1.0 - cumprod)

    # ------------------------------------------------------------------ forward process

    def q_mean_variance(self, x_start: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log variance of ``q(x_t | x_start)``, shaped like ``x_start``."""
        mean = _look_up(self.sqrt_alphas_cumprod, t, x_start) * x_start
        variance = _look_up(1.0 - self.alphas_cumprod, t, x_start)
        log_variance = _look_up(self.log_one_minus_alphas_cumprod, t, x_start)
        ones = torch.ones_like(x_start)
        return mean, variance * ones, log_variance * ones

    def q_sample(self, x_start: Tensor, t: Tensor | int, noise: Tensor | None = None) -> Tensor:
        """Draw from ``q(x_t | x_start)``; ``noise`` is drawn globally if not given."""
        if noise is None:
            noise = torch.randn_like(x_start)
        return (
            _look_up(self.sqrt_alphas_cumprod, t, x_start) * x_start
            + _look_up(self.sqrt_one_minus_alphas_cumprod, t, x_start) * noise
        )

    def q_posterior_mean_variance(
        self, x_start: Tensor, x_t: Tensor, t: Tensor | int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and clipped log variance of ``q(x_{t-1} | x_t, x_start)``."""
        mean = (
            _look_up(self.posterior_mean_coef1, t, x_t) * x_start
            + _look_up(self.posterior_mean_coef2, t, x_t) * x_t
        )
        ones = torch.ones_like(x_t)
        variance = _look_up(self.posterior_variance, t, x_t) * ones
        log_variance = _look_up(self.posterior_log_variance_clipped, t, x_t) * ones
        return mean, variance, log_variance

    # ------------------------------------------------------------------ reverse process

    def network_timesteps(self, t: Tensor | int, x: Tensor) -> Tensor:
        """The int64 step numbers ``(rows,)`` to tell the network for the rows of ``x``."""
        if not isinstance(t, Tensor):
            return torch.full((x.shape[0],), t, dtype=torch.int64, device=x.device)
        return t

    def p_mean_variance(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        t: Tensor | int,
        clip_denoised: bool = True,
        denoised_fn: Callable[[Tensor], Tensor] | None = None,
        model_kwargs: dict | None = None,
    ) -> dict[str, Tensor]:
        """The network's estimate of ``p(x_{t-1} | x_t)``.

        Args:
            model: Called as ``model(x, step_numbers, **model_kwargs)``.
            x: ``x_t``, ``(rows, channels, ...)`` float32.
            t: Steps; see the module's text.
            clip_denoised: Clamp the estimate of ``x_start`` to ``[-1, 1]``.
            denoised_fn: Applied to the estimate of ``x_start`` before clamping.
            model_kwargs: Further arguments of the model.

        Returns:
            ``mean``, ``variance``, ``log_variance`` and ``pred_xstart``, shaped like ``x``.
        """
        output = model(x, self.network_timesteps(t, x), **(model_kwargs or {}))
        # The state stays in float32 whatever the network computes in.
        prediction, log_variance = self._split_output(output.to(x.dtype), x, t)

        pred_xstart = self._predict_xstart(prediction, x, t)
        if denoised_fn is not None:
            pred_xstart = denoised_fn(pred_xstart)
        if clip_denoised:
            pred_xstart = pred_xstart.clamp(-1, 1)

        if self.model_mean_type is ModelMeanType.PREVIOUS_X:
            mean = prediction
        else:
            mean, _, _ = self.q_posterior_mean_variance(pred_xstart, x, t)
        return {
            "mean": mean,
            "variance": torch.exp(log_variance),
            "log_variance": log_variance,
            "pred_xstart": pred_xstart,
        }

    def _split_output(self, output: Tensor, x: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """The network's prediction and the log variance of the reverse step."""
        channels = x.shape[1]
        learned = self.model_var_type in _LEARNED_VARIANCES
        expected = (x.shape[0], channels * (2 if learned else 1), *x.shape[2:])
        if output.shape != expected:
            raise ValueError(
                f"the network returned shape {tuple(output.shape)}, expected {expected}"
            )
        smallest = _look_up(self.posterior_log_variance_clipped, t, x)
        if not learned:
            fixed = smallest
            if self.model_var_type is ModelVarType.FIXED_LARGE:
                fixed = _look_up(np.append(self.posterior_log_variance_clipped[:1],
                                           self.log_betas[1:]), t, x)  # fmt: skip
            return output, fixed * torch.ones_like(x)
        prediction, variance_output = output.split(channels, dim=1)
        if self.model_var_type is ModelVarType.LEARNED:
            return prediction, variance_output
        fraction = (variance_output + 1) / 2
        largest = _look_up(self.log_betas, t, x)
        return prediction, fraction * largest + (1 - fraction) * smallest

    def _predict_xstart(self, prediction: Tensor, x: Tensor, t: Tensor | int) -> Tensor:
        if self.model_mean_type is ModelMeanType.START_X:
            return prediction
        if self.model_mean_type is ModelMeanType.EPSILON:
            return (
                _look_up(self.sqrt_recip_alphas_cumprod, t, x) * x
                - _look_up(self.sqrt_recipm1_alphas_cumprod, t, x) * prediction
            )
        coef1, coef2 = self.posterior_mean_coef1, self.posterior_mean_coef2
        return _look_up(1.0 / coef1, t, x) * prediction - _look_up(coef2 / coef1, t, x) * x


def _look_up(table: np.ndarray, t: Tensor | int, like: Tensor) -> Tensor | float:
    """The table's float32 value for each row, shaped to broadcast against ``like``.

    For an int ``t`` the result is a Python number, which arithmetic with a float32 tensor
    treats as the same float32 value, without a transfer to the device.
    """
    if not isinstance(t, Tensor):
        return float(np.float32(table[t]))
    values = torch.from_numpy(table.astype(np.float32)).to(like.device)[t.to(like.device)]
    return values.reshape(-1, *[1] * (like.dim() - 1))
