"""Configuration of the discriminator that trains the autoencoder."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

__all__ = ["NLayerDiscriminatorConfig"]


class NLayerDiscriminatorConfig(PretrainedConfig):
    """Configuration of ``NLayerDiscriminator``.

    Args:
        input_nc: image channels.
        ndf: channels after the first convolution.
        n_layers: further strided convolutions, each doubling the channels up to 8 * ndf.
        use_actnorm: must be False; batch norm is used.
    """

    model_type = "NLayerDiscriminator"

    def __init__(
        self,
        input_nc: int = 3,
        ndf: int = 64,
        n_layers: int = 3,
        use_actnorm: bool = False,
        **kwargs: Any,
    ):
        if use_actnorm:
            raise ValueError("use_actnorm is True, expected False: only batch norm is supported")
        self.input_nc = input_nc
        self.ndf = ndf
        self.n_layers = n_layers
        self.use_actnorm = use_actnorm
        super().__init__(**kwargs)


AutoConfig.register(NLayerDiscriminatorConfig.model_type, NLayerDiscriminatorConfig, exist_ok=True)
