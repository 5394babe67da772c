"""Sampling and training of a Gaussian diffusion process; see :mod:`.process` for the notation."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hart.modules.diffusion.diffusion_utils import discretized_gaussian_log_likelihood, normal_kl
from hart.modules.diffusion.process import (
    DiffusionProcess,
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


class GaussianDiffusion(DiffusionProcess):
    """A diffusion process with ancestral sampling and training losses.

    The arguments are those of :class:`~hart.modules.diffusion.process.DiffusionProcess`.
    """

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
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        t: Tensor | int,
        clip_denoised: bool = True,
        denoised_fn: Callable[[Tensor], Tensor] | None = None,
        cond_fn: Callable[..., Tensor] | None = None,
        model_kwargs: dict | None = None,
        temperature: float = 1.0,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Draw ``x_{t-1}`` given ``x_t``.

        Args:
            model, x, t, clip_denoised, denoised_fn, model_kwargs: As in ``p_mean_variance``.
            cond_fn: As in ``condition_mean``.
            temperature: Factor of the noise.
            noise: Standard normal values shaped like ``x``; by default drawn from the global
                generator of the device. Has no effect at step 0.

        Returns:
            ``sample`` and ``pred_xstart``, shaped like ``x``.
        """
        estimate = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if noise is None:
            noise = torch.randn_like(x)
        mean = estimate["mean"]
        if cond_fn is not None:
            mean = self.condition_mean(cond_fn, estimate, x, t, model_kwargs)
        not_last: float | Tensor
        if not isinstance(t, Tensor):
            not_last = float(t != 0)
        else:
            not_last = (t != 0).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        scale = not_last * torch.exp(0.5 * estimate["log_variance"])
        return {
            "sample": mean + scale * noise * temperature,
            "pred_xstart": estimate["pred_xstart"],
        }

    def p_sample_loop(
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
    ) -> Tensor:
        """Draw samples by running the reverse process from pure noise.

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

        Returns:
            float32 tensor of the given shape.
        """
        # Only the last result is kept, so that the earlier ones are released.
        last = collections.deque(
            self.p_sample_loop_progressive(
                model, shape, noise, clip_denoised, denoised_fn, cond_fn, model_kwargs, device,
                progress, temperature, noise_source,
            ),
            maxlen=1,
        )  # fmt: skip
        return last.pop()["sample"]

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
        """As ``p_sample_loop``, but yields the result of ``p_sample`` after every step."""
        if device is None:
            holder = cast(nn.Module, model)  # a bare function needs ``noise`` or ``device``
            device = noise.device if noise is not None else next(holder.parameters()).device
        if noise_source is None:
            noise_source = _global_noise(device)
        x = noise if noise is not None else noise_source(tuple(shape), "initial")
        if x.shape != tuple(shape):
            raise ValueError(f"the initial noise has shape {tuple(x.shape)}, expected {shape}")
        steps = range(self.num_timesteps - 1, -1, -1)
        for step in tqdm(steps, disable=not progress):
            with torch.no_grad():
                result = self.p_sample(
                    model, x, step, clip_denoised, denoised_fn, cond_fn, model_kwargs,
                    temperature, noise_source(tuple(shape), "step"),
                )  # fmt: skip
            yield result
            x = result["sample"]

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
            model_kwargs: Further arguments of the model.
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

        channels = x_start.shape[1]
        prediction = output[:, :channels]
        mse = mean_flat((self._target(x_start, x_t, t, noise) - prediction) ** 2)
        if output.shape[1] == channels:
            return {"loss": mse, "mse": mse}
        # The bound teaches the variance only; the mean learns from the squared error.
        detached = torch.cat([prediction.detach(), output[:, channels:]], dim=1)
        vb = self._variational_bound(detached, x_start, x_t, t)
        if self.loss_type is LossType.RESCALED_MSE:
            vb = vb * (self.num_timesteps / 1000.0)
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def _target(self, x_start: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        if self.model_mean_type is ModelMeanType.EPSILON:
            return noise
        if self.model_mean_type is ModelMeanType.START_X:
            return x_start
        return self.q_posterior_mean_variance(x_start, x_t, t)[0]

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


def _global_noise(device: torch.device | str) -> NoiseSource:
    """Draws from torch's global generator of the device."""
    return lambda shape, kind: torch.randn(shape, dtype=torch.float32, device=device)
