"""The residual diffusion head: predicts what the codebook cannot express (HART, section 3.3).

A small network denoises each token's residual vector, conditioned on the transformer's output
for that token, in the manner of MAR (Li et al. 2024, arXiv:2406.11838).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hart.modules.diffusion.gaussian_diffusion import NoiseSource
from hart.modules.diffusion.network import (
    FinalLayer,
    ResBlock,
    SimpleMLPAdaLN,
    TimestepEmbedder,
    modulate,
    with_guidance,
)
from hart.modules.diffusion.respace import create_diffusion

__all__ = [
    "DiffLoss",
    "FinalLayer",
    "ResBlock",
    "SimpleMLPAdaLN",
    "TimestepEmbedder",
    "modulate",
]

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(noisy residuals (rows, channels), step numbers (rows,)) to the network's output."""

# Residuals are divided by this before diffusion, to fill the sampler's range [-1, 1].
VAE_SCALE = 0.6


class DiffLoss(nn.Module):
    """The diffusion head: training loss and sampler around :class:`SimpleMLPAdaLN`.

    Args:
        target_channels: Width of a token's residual.
        z_channels: Width of the condition.
        depth: Residual blocks of the network.
        width: Hidden width of the network.
        num_sampling_steps: Which of the 1000 steps the sampler visits, as a number, a
            comma-separated string of section counts, or ``"ddimN"``.
        sampler: Name of the default sampler; see ``sample``.
    """

    def __init__(
        self,
        target_channels: int,
        z_channels: int,
        depth: int,
        width: int,
        num_sampling_steps: int | str,
        sampler: str = "iddpm",
    ) -> None:
        super().__init__()
        self.in_channels = target_channels
        self.sampler = sampler
        self.vae_scale = VAE_SCALE
        self.net = SimpleMLPAdaLN(
            in_channels=target_channels,
            model_channels=width,
            out_channels=2 * target_channels,
            z_channels=z_channels,
            num_res_blocks=depth,
        )
        self.train_diffusion = create_diffusion("", noise_schedule="cosine")
        self.gen_diffusion = create_diffusion(num_sampling_steps, noise_schedule="cosine")

    def forward(self, target: Tensor, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Training loss.

        Args:
            target: Residuals, ``(n, target_channels)``.
            z: Conditions, ``(n, z_channels)``.
            mask: Weights of the rows, ``(n,)``; by default all one.

        Returns:
            Mean loss, a scalar. Steps and noise come from torch's global generator of the
            device, in this order.
        """
        steps, device = self.train_diffusion.num_timesteps, target.device
        t = torch.randint(0, steps, (target.shape[0],), dtype=torch.int64, device=device)
        terms = self.train_diffusion.training_losses(
            self.net, target / self.vae_scale, t, model_kwargs={"c": z}
        )
        loss = terms["loss"]
        if mask is not None:
            loss = (loss * mask).sum() / mask.sum()
        return loss.mean()

    def sample(
        self,
        z: Tensor,
        temperature: float = 1.0,
        cfg: float = 1.5,
        sampler: str | None = None,
        noise_source: NoiseSource | None = None,
        denoiser: Denoiser | None = None,
    ) -> Tensor:
        """Draw residuals.

        Args:
            z: Conditions, ``(rows, z_channels)``. With guidance the first half of the rows is
                conditional and the second half unconditional.
            temperature: Factor of the step noise.
            cfg: Guidance scale ``s`` in ``(1 + s) * conditional - s * unconditional``. Exactly
                1.0 means no guidance: every row is sampled by itself.
            sampler: Only ``"iddpm"`` exists; None means the constructor's.
            noise_source: See :data:`NoiseSource`. With guidance it is asked for half of the
                rows, and both halves get the same noise: the second half does not influence the
                first. By default the initial noise comes from torch's global CPU generator (half
                of the rows with guidance), the step noise from the global generator of the
                device, always for all rows.
            denoiser: In place of the network with ``z`` and ``cfg``, to which it must be equal
                up to rounding; guided if guidance is on.

        Returns:
            float32 ``(rows, target_channels)`` in ``[-0.6, 0.6]``. With guidance only the
            first half is meaningful.

        Raises:
            NotImplementedError: for any other sampler.
            ValueError: if guidance is on and the number of rows is odd.
        """
        sampler = self.sampler if sampler is None else sampler
        if sampler != "iddpm":
            raise NotImplementedError(f"sampler is {sampler!r}; only 'iddpm' is implemented")
        rows, copies = z.shape[0], 1 if cfg == 1.0 else 2
        if rows % copies:
            raise ValueError(f"guidance needs an even number of rows of z, got {rows}")
        model: Callable[..., Tensor] = denoiser or functools.partial(guided, self.net, z, cfg)
        part = (rows // copies, self.in_channels)
        shape = (rows, self.in_channels)
        if noise_source is None:
            initial = torch.randn(part, dtype=torch.float32, device="cpu").to(z.device)
            source = None
        else:
            initial = noise_source(part, "initial")
            source = functools.partial(_repeated, noise_source, part, copies)
        initial = initial.repeat(copies, 1)
        residual = self.gen_diffusion.p_sample_loop(
            model, shape, initial, temperature=temperature, noise_source=source
        )
        return residual * self.vae_scale


def guided(
    net: Callable[[Tensor, Tensor, Tensor], Tensor], c: Tensor, cfg: float, x: Tensor, t: Tensor
) -> Tensor:
    """The network's output on ``x`` at steps ``t``, guided unless ``cfg`` is exactly 1.0."""
    return net(x, t, c) if cfg == 1.0 else with_guidance(net, x, t, c, cfg)


def _repeated(
    source: NoiseSource, part: tuple[int, ...], copies: int, _: tuple[int, ...], kind: str
) -> Tensor:
    return source(part, kind).repeat(copies, 1)
