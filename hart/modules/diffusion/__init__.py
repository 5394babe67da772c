"""Residual diffusion head and its sampler."""

from __future__ import annotations

from hart.modules.diffusion import gaussian_diffusion as gd
from hart.modules.diffusion.gaussian_diffusion import GaussianDiffusion
from hart.modules.diffusion.respace import SpacedDiffusion, create_diffusion, space_timesteps

__all__ = ["GaussianDiffusion", "SpacedDiffusion", "create_diffusion", "gd", "space_timesteps"]
