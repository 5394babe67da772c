"""Patch discriminator of the autoencoder's training (Isola et al., arXiv 1611.07004)."""

from hart.modules.losses.vqgan.configuration_disc import NLayerDiscriminatorConfig
from hart.modules.losses.vqgan.discriminator import (
    NLayerDiscriminator,
    create_discriminator,
    weights_init,
)

__all__ = [
    "NLayerDiscriminator",
    "NLayerDiscriminatorConfig",
    "create_discriminator",
    "weights_init",
]
