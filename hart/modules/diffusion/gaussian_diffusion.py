"""Gaussian diffusion: forward process, sampling and training; sources in :mod:`.schedules`.

Notation: ``x_start`` is the clean value, ``x_t`` the value after step ``t`` of the forward
process ``q``, ``alphas_cumprod[t]`` the fraction of the signal's variance left then. Schedules
are float64 numpy arrays; a value looked up in one is rounded to float32 before use, so no
float64 tensor exists on any device.

Wherever a function takes ``t`` it is an int64 tensor of shape ``(rows,)``, or one int that
holds for all rows, which needs no transfer to the device.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hart.modules.diffusion.diffusion_utils import discretized_gaussian_log_likelihood, normal_kl
from hart.modules.diffusion.schedules import (
    LossType,
    ModelMeanType,
    ModelVarType,
    betas_for_alpha_bar,
    get_beta_schedule,
    get_named_beta_schedule,
)

__all__ = [
    "GaussianDiffusion",
    "LossType",
    "ModelMeanType",
    "ModelVarType",
    "NoiseSource",
    "betas_for_alpha_bar",
    "get_beta_schedule",
    "get_named_beta_schedule",
    "mean_flat",
]

NoiseSource = Callable[[tuple[int, ...], str], Tensor]
"""``(shape, kind)`` to standard normal float32 noise on the sampler's device. ``kind`` is
``"initial"`` (asked once, first) or ``"step"`` (asked once per step, the last one included,
where the noise has no effect)."""


def mean_flat(tensor: Tensor) -> Tensor:
    """Mean over all axes but the first: ``(rows, ...)`` to ``(rows,)``."""
    return tensor.flatten(1).mean(dim=1)


class GaussianDiffusion:
    """One schedule: its forward process, ancestral sampling and training losses.

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
        self.betas = betas = np.array(betas, dtype=np.float64)
        if betas.ndim != 1 or not betas.size or not ((betas > 0) & (betas <= 1)).all():
            raise ValueError(
                f"betas must be one axis of numbers in (0, 1], got shape {betas.shape}: {betas}"
            )
        self.num_timesteps = len(betas)
        self.alphas_cumprod = cumprod = np.cumprod(1.0 - betas)
        self.alphas_cumprod_prev = before = np.append(1.0, cumprod[:-1])
        self.alphas_cumprod_next = np.append(cumprod[1:], 0.0)
        self.sqrt_alphas_cumprod = np.sqrt(cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1.0 - cumprod)
        self.log_one_minus_alphas_cumprod = np.log(1.0 - cumprod)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1.0 / cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1.0 / cumprod - 1)
        self.posterior_variance = betas * (1.0 - before) / (1.0 - cumprod)
        # The first posterior variance is zero: its logarithm is replaced by the second's.
        clipped = self.posterior_variance.copy()
        clipped[0] = clipped[1] if len(clipped) > 1 else betas[0]
        self.posterior_log_variance_clipped = np.log(clipped)
        self.log_betas = np.log(betas)
        self.posterior_mean_coef1 = betas * np.sqrt(before) / (1.0 - cumprod)
        self.posterior_mean_coef2 = (1.0 - before) * np.sqrt(1.0 - betas) / (1.0 - cumprod)

    # --- forward process ----------------------------------------------------------------------

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
        return mean, variance, _look_up(self.posterior_log_variance_clipped, t, x_t) * ones

    # --- reverse process ----------------------------------------------------------------------

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
        mean = prediction
        if self.model_mean_type is not ModelMeanType.PREVIOUS_X:
            mean, _, _ = self.q_posterior_mean_variance(pred_xstart, x, t)
        return {
            "mean": mean,
            "variance": torch.exp(log_variance),
            "log_variance": log_variance,
            "pred_xstart": pred_xstart,
        }

    def _split_output(self, output: Tensor, x: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """The network's prediction and the log variance of the reverse step."""
        kind, channels = self.model_var_type, x.shape[1]
        learned = kind in (ModelVarType.LEARNED, ModelVarType.LEARNED_RANGE)
        expected = (x.shape[0], channels * (2 if learned else 1), *x.shape[2:])
        if output.shape != expected:
            raise ValueError(
                f"the network returned shape {tuple(output.shape)}, expected {expected}"
            )
        smallest = _look_up(self.posterior_log_variance_clipped, t, x)
        if kind is ModelVarType.FIXED_SMALL:
            return output, smallest * torch.ones_like(x)
        if kind is ModelVarType.FIXED_LARGE:
            large = np.append(self.posterior_log_variance_clipped[:1], self.log_betas[1:])
            return output, _look_up(large, t, x) * torch.ones_like(x)
        prediction, variance_output = output.split(channels, dim=1)
        if kind is ModelVarType.LEARNED:
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

    def condition_mean(
        self,
        cond_fn: Callable[..., Tensor],
        estimate: dict[str, Tensor],
        x: Tensor,
        t: Tensor | int,
        model_kwargs: dict | None = None,
    ) -> Tensor:
        """The mean of ``estimate``, shifted along a gradient (Dhariwal and Nichol 2021).

        ``cond_fn(x, step_numbers, **model_kwargs)`` returns the gradient of a log likelihood
        with respect to ``x``, shaped like ``x``.
        """
        gradient = cond_fn(x, self.network_timesteps(t, x), **(model_kwargs or {}))
        return estimate["mean"] + estimate["variance"] * gradient

    def p_sample(
        self, model: Callable[..., Tensor], x: Tensor, t: Tensor | int, clip_denoised: bool = True,
        denoised_fn: Callable[[Tensor], Tensor] | None = None,
        cond_fn: Callable[..., Tensor] | None = None, model_kwargs: dict | None = None,
        temperature: float = 1.0, noise: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Draw ``x_{t-1}`` given ``x_t``: ``sample`` and ``pred_xstart``, shaped like ``x``.

        Arguments are those of :meth:`p_mean_variance` and :meth:`condition_mean`; ``temperature``
        is a factor of the ``noise``, standard normal values shaped like ``x`` that by default are
        drawn from the global generator of the device. It has no effect at step 0.
        """
        estimate = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if noise is None:
            noise = torch.randn_like(x)
        mean = estimate["mean"]
        if cond_fn is not None:
            mean = self.condition_mean(cond_fn, estimate, x, t, model_kwargs)
        not_last = _rows(t != 0, x) if isinstance(t, Tensor) else float(t != 0)
        scale = not_last * torch.exp(0.5 * estimate["log_variance"])
        sample = mean + scale * noise * temperature
        return {"sample": sample, "pred_xstart": estimate["pred_xstart"]}

    def p_sample_loop(self, *args: Any, **kwargs: Any) -> Tensor:
        """The samples, float32, after the last step of :meth:`p_sample_loop_progressive`."""
        # Only the last result is kept, so that the earlier ones are released.
        results = self.p_sample_loop_progressive(*args, **kwargs)
        return collections.deque(results, maxlen=1).pop()["sample"]

    def p_sample_loop_progressive(
        self,
        model: Callable[..., Tensor],
        shape: tuple[int, ...],
        noise: Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: Callable[[Tensor], Tensor] | None = None,
        cond_fn: Callable[..., Tensor] | None = None,
        model_kwargs: dict | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        temperature: float = 1.0,
        noise_source: NoiseSource | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Run the reverse process from pure noise; yields the result of :meth:`p_sample` per step.

        Args:
            model, clip_denoised, denoised_fn, cond_fn, model_kwargs: As in ``p_sample``.
            shape: Shape of the samples, ``(rows, channels, ...)``.
            noise: The initial noise. By default it is drawn.
            device: Where to draw; by default the device of ``noise``, or if that is not given
                the device of the model's parameters.
            progress: Show a progress bar.
            temperature: Factor of the step noise; the initial noise is not scaled.
            noise_source: Where noise comes from; by default torch's global generator of the
                device.

        Raises:
            ValueError: the initial noise has another shape.
        """
        if device is None:
            holder = cast(nn.Module, model)  # a bare function needs ``noise`` or ``device``
            device = noise.device if noise is not None else next(holder.parameters()).device

        def draw(shape: tuple[int, ...], kind: str) -> Tensor:
            return torch.randn(shape, dtype=torch.float32, device=device)

        source = noise_source or draw
        x = noise if noise is not None else source(tuple(shape), "initial")
        if x.shape != tuple(shape):
            raise ValueError(f"the initial noise has shape {tuple(x.shape)}, expected {shape}")
        for step in tqdm(range(self.num_timesteps - 1, -1, -1), disable=not progress):
            with torch.no_grad():
                result = self.p_sample(
                    model, x, step, clip_denoised, denoised_fn, cond_fn, model_kwargs,
                    temperature, source(tuple(shape), "step"),
                )  # fmt: skip
            yield result
            x = result["sample"]

    # --- training -----------------------------------------------------------------------------

    def training_losses(
        self,
        model: Callable[..., Tensor],
        x_start: Tensor,
        t: Tensor,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of one step per row.

        Args:
            model: Called as ``model(x_t, step_numbers, **model_kwargs)``.
            x_start: Clean values, ``(rows, channels, ...)``.
            t: Steps, int64 ``(rows,)``.
            noise: Noise to add; drawn from the device's global generator if not given.

        Returns:
            ``loss``, and for the squared-error losses its parts ``mse`` and, with a learned
            variance, ``vb`` (bits per dimension, without gradient to the mean). Each
            ``(rows,)`` float32.
        """
        if noise is None:
            noise = torch.randn_like(x_start)
        x_t = self.q_sample(x_start, t, noise)
        output = model(x_t, self.network_timesteps(t, x_t), **(model_kwargs or {}))
        if self.loss_type.is_vb():
            scale = self.num_timesteps if self.loss_type is LossType.RESCALED_KL else 1.0
            return {"loss": self._variational_bound(output, x_start, x_t, t) * scale}

        channels, target = x_start.shape[1], noise
        if self.model_mean_type is ModelMeanType.START_X:
            target = x_start
        elif self.model_mean_type is ModelMeanType.PREVIOUS_X:
            target = self.q_posterior_mean_variance(x_start, x_t, t)[0]
        prediction = output[:, :channels]
        mse = mean_flat((target - prediction) ** 2)
        if output.shape[1] == channels:
            return {"loss": mse, "mse": mse}
        # The bound teaches the variance only; the mean learns from the squared error.
        detached = torch.cat([prediction.detach(), output[:, channels:]], dim=1)
        vb = self._variational_bound(detached, x_start, x_t, t)
        if self.loss_type is LossType.RESCALED_MSE:
            vb = vb * (self.num_timesteps / 1000.0)
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def _variational_bound(self, output: Tensor, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The bound's term of step ``t`` in bits per dimension, ``(rows,)``."""
        true_mean, _, true_log_variance = self.q_posterior_mean_variance(x_start, x_t, t)
        estimate = self.p_mean_variance(lambda *_: output, x_t, t, clip_denoised=False)
        mean, log_variance = estimate["mean"], estimate["log_variance"]
        divergence = normal_kl(true_mean, true_log_variance, mean, log_variance)
        decoder_nll = -discretized_gaussian_log_likelihood(
            x_start, means=mean, log_scales=0.5 * log_variance
        )
        nats = torch.where(t == 0, mean_flat(decoder_nll), mean_flat(divergence))
        return nats / math.log(2.0)


def _look_up(table: np.ndarray, t: Tensor | int, like: Tensor) -> Tensor | float:
    """The table's float32 value for each row, shaped to broadcast against ``like``.

    For an int ``t`` the result is a Python number, which arithmetic with a float32 tensor
    treats as the same float32 value, without a transfer to the device.
    """
    if not isinstance(t, Tensor):
        return float(np.float32(table[t]))
    return _rows(
        torch.from_numpy(table.astype(np.float32)).to(like.device)[t.to(like.device)], like
    )


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """A value per row as float32, shaped to broadcast against ``like``."""
    return values.float().reshape(-1, *[1] * (like.dim() - 1))
