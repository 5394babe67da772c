"""The image autoencoder together with the discriminator that it was trained against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hart.modules.losses.vqgan import (
    NLayerDiscriminatorConfig,
    create_discriminator,
    weights_init,
)
from hart.modules.models.autoencoder.configuration import HARTAutoEncoderWithDiscConfig
from hart.modules.models.autoencoder.hart_autoencoder import (
    HARTAutoEncoder,
    initialize_module,
    with_fitting_hit_average,
)

__all__ = ["HARTAutoEncoderWithDisc"]


class HARTAutoEncoderWithDisc(PreTrainedModel):
    """``vae`` (``HARTAutoEncoder``) and ``disc`` (``NLayerDiscriminator``) for training.

    Generating images needs only the first; ``HARTAutoEncoder.from_tokenizer_folder`` loads it
    from a checkpoint of this class.
    """

    config_class = HARTAutoEncoderWithDiscConfig

    def __init__(self, config: HARTAutoEncoderWithDiscConfig):
        super().__init__(config)
        self.vae = HARTAutoEncoder(config.autoencoder_config())
        self.disc = create_discriminator(NLayerDiscriminatorConfig(ndf=config.disc_ndf))
        if config.test_mode:
            self.eval()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        in_disc = any(module is part for part in self.disc.modules())
        if initialize_module(module) and in_disc:
            weights_init(module)

    def forward(self, *, model_index: int = 0, **kwargs: Any) -> Any:
        """``vae(**kwargs)`` if ``model_index`` is 0, else ``disc(**kwargs)``."""
        return self.vae(**kwargs) if model_index == 0 else self.disc(**kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = False, assign: bool = False
    ) -> Any:
        """As ``nn.Module.load_state_dict``; hit statistics of another schedule are left out."""
        state = with_fitting_hit_average(
            state_dict, self.vae.quantize.ema_vocab_hit_SV, prefix="vae."
        )
        return super().load_state_dict(state, strict=strict, assign=assign)

    def get_last_layer(self) -> torch.Tensor:
        """Weight of the decoder's last convolution (for adaptive loss weights)."""
        return self.vae.get_last_layer()

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See ``HARTAutoEncoder.compute_loss``."""
        return self.vae.compute_loss(*args, **kwargs)

    @property
    def vae_params(self) -> list[nn.Parameter]:
        """Parameters of the autoencoder."""
        return list(self.vae.parameters())

    @property
    def disc_params(self) -> list[nn.Parameter]:
        """Parameters of the discriminator."""
        return list(self.disc.parameters())
