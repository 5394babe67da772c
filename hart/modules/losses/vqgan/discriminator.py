"""Patch discriminator of the autoencoder's training (Isola et al., arXiv 1611.07004)."""

from __future__ import annotations

import torch
from torch import nn

from hart.modules.losses.vqgan.configuration_disc import NLayerDiscriminatorConfig

__all__ = ["NLayerDiscriminator", "create_discriminator", "weights_init"]


class NLayerDiscriminator(nn.Module):
    """Scores overlapping patches of images: (B, input_nc, H, W) -> (B, 1, H', W')."""

    def __init__(self, config: NLayerDiscriminatorConfig):
        super().__init__()
        self.config = config
        width = config.ndf
        layers: list[nn.Module] = [
            nn.Conv2d(config.input_nc, width, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for i in range(1, config.n_layers + 1):
            wider = config.ndf * min(2**i, 8)
            stride = 2 if i < config.n_layers else 1
            layers += [
                nn.Conv2d(width, wider, kernel_size=4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width = wider
        layers.append(nn.Conv2d(width, 1, kernel_size=4, stride=1, padding=1))
        self.main = nn.Sequential(*layers)

    def forward(
        self, input0: torch.Tensor, input1: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores of ``input0`` and, if given, of ``input1``."""
        return self.main(input0), None if input1 is None else self.main(input1)


def weights_init(module: nn.Module) -> None:
    """Initialise one layer: convolutions from N(0, 0.02), batch norm scales from N(1, 0.02)."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def create_discriminator(config: NLayerDiscriminatorConfig | None = None) -> NLayerDiscriminator:
    """A freshly initialised discriminator; ``None`` means the default configuration."""
    return NLayerDiscriminator(config or NLayerDiscriminatorConfig()).apply(weights_init)
