"""Configuration of the class-conditional VAR transformers."""

from __future__ import annotations

from transformers import AutoConfig

from hart.modules.models.transformer.configuration import (
    CacheFieldsMixin,
    VARTransformerConfig,
)
from hart.modules.models.transformer.fields import CACHE_FIELDS, GONE_FIELDS

__all__ = ["VARForC2IConfig"]


class VARForC2IConfig(CacheFieldsMixin, VARTransformerConfig):
    """Class-conditional VAR; the defaults are those of ``var_d16.pth``.

    The published checkpoints have no configuration file; their sizes are read from the weights,
    see ``var_checkpoint``. ``vae_path`` is the autoencoder's ``.pth`` file.

    Args:
        num_classes: classes; one more embedding stands for "no class".
        vocab_size, z_channels: codebook size and latent channels of the autoencoder.
        attn_l2_norm: on in every published model.
        kwargs: options of feature caching (:class:`CacheFieldsMixin`), fields of
            :class:`VARTransformerConfig`; ``attn_type`` and ``mlp_type`` are "gpt2".
    """

    model_type = "var_for_c2i"
    FIELDS = VARTransformerConfig.FIELDS | CACHE_FIELDS | GONE_FIELDS

    def __init__(
        self,
        num_classes: int = 1000,
        vocab_size: int = 4096,
        z_channels: int = 32,
        attn_l2_norm: bool = True,
        **kwargs,
    ):
        self.vocab_size, self.z_channels = vocab_size, z_channels
        super().__init__(num_classes=num_classes, attn_l2_norm=attn_l2_norm, **kwargs)


AutoConfig.register(VARForC2IConfig.model_type, VARForC2IConfig, exist_ok=True)
