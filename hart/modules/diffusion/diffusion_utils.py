"""Gaussian divergences and likelihoods for the variational bound; only training uses them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Data are taken as 8-bit levels spread over [-1, 1]: one level is 2/255 wide.
_HALF_BIN = 1.0 / 255.0
_SMALLEST_PROBABILITY = 1e-12


def normal_kl(
    mean1: Tensor | float, logvar1: Tensor | float, mean2: Tensor | float, logvar2: Tensor | float
) -> Tensor:
    """Kullback-Leibler divergence KL(N1 || N2) of two normal distributions, in nats.

    Shapes broadcast. Numbers stand for constant tensors; one argument must be a tensor.

    Raises:
        TypeError: if no argument is a tensor.
    """
    tensors = [value for value in (mean1, logvar1, mean2, logvar2) if isinstance(value, Tensor)]
    if not tensors:
        raise TypeError("normal_kl needs at least one tensor among its four arguments")
    logvar1, logvar2 = (torch.as_tensor(value).to(tensors[0]) for value in (logvar1, logvar2))
    squared_distance = (mean1 - mean2) ** 2
    return 0.5 * (
        logvar2 - logvar1 - 1.0 + torch.exp(logvar1 - logvar2)
        + squared_distance * torch.exp(-logvar2)
    )  # fmt: skip


def approx_standard_normal_cdf(x: Tensor) -> Tensor:
    """Standard normal distribution function, tanh approximation (Page 1977)."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def continuous_gaussian_log_likelihood(x: Tensor, *, means: Tensor, log_scales: Tensor) -> Tensor:
    """Log density of ``x`` under normals with these means and log standard deviations, in nats."""
    normalized = (x - means) * torch.exp(-log_scales)
    return -0.5 * normalized**2 - log_scales - 0.5 * math.log(2 * math.pi)


def discretized_gaussian_log_likelihood(x: Tensor, *, means: Tensor, log_scales: Tensor) -> Tensor:
    """Log probability of the 8-bit level that ``x`` lies on, in nats (Ho et al. 2020, eq. 13).

    Args:
        x: Values in ``[-1, 1]``, any shape.
        means: Means, same shape.
        log_scales: Log standard deviations, same shape.

    Returns:
        Log probabilities of the same shape. The lowest and the highest level take the whole
        tail on their side.

    Raises:
        ValueError: if the shapes differ.
    """
    if not x.shape == means.shape == log_scales.shape:
        raise ValueError(
            "x, means and log_scales need one shape, got "
            f"{tuple(x.shape)}, {tuple(means.shape)} and {tuple(log_scales.shape)}"
        )
    inverse_scale = torch.exp(-log_scales)
    cdf_above = approx_standard_normal_cdf(inverse_scale * (x - means + _HALF_BIN))
    cdf_below = approx_standard_normal_cdf(inverse_scale * (x - means - _HALF_BIN))
    probability = torch.where(
        x < -0.999, cdf_above, torch.where(x > 0.999, 1.0 - cdf_below, cdf_above - cdf_below)
    )
    return probability.clamp(min=_SMALLEST_PROBABILITY).log()
