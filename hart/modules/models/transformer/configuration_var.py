"""Configuration of the class-conditional VAR transformers."""

from __future__ import annotations

from transformers import AutoConfig

from hart.modules.models.transformer.configuration import VARTransformerConfig
from hart.modules.models.transformer.fields import CACHE_FIELDS
from hart.modules.networks.caching.cache_options import OPTION_NAMES

__all__ = ["VARForC2IConfig"]

_CACHE_FIELDS = (*OPTION_NAMES.values(), "calibration", "sim_path", "threshold")


class VARForC2IConfig(VARTransformerConfig):
    """Class-conditional VAR; the defaults are those of ``var_d16.pth``.

    The published checkpoints have no configuration file; their sizes are read from the weights,
    see ``var_checkpoint``. ``vae_path`` is the autoencoder's ``.pth`` file. Caching is configured
    by the fields that :class:`HARTForT2IConfig` documents.

    Args:
        num_classes: classes; one more embedding stands for "no class".
        vocab_size, z_channels: codebook size and latent channels of the autoencoder.
        attn_l2_norm: on in every published model.
        kwargs: fields of :class:`VARTransformerConfig`. ``attn_type`` and ``mlp_type`` are "gpt2".
    """

    model_type = "var_for_c2i"
    FIELDS = VARTransformerConfig.FIELDS | CACHE_FIELDS

    def __init__(
        self,
        num_classes: int = 1000,
        vocab_size: int = 4096,
        z_channels: int = 32,
        attn_l2_norm: bool = True,
        use_cache: bool | None = None,
        **kwargs,
    ):
        self.vocab_size, self.z_channels = vocab_size, z_channels
        for name in _CACHE_FIELDS:
            setattr(self, name, kwargs.pop(name, None))
        super().__init__(num_classes=num_classes, attn_l2_norm=attn_l2_norm, **kwargs)
        self.use_cache = use_cache


AutoConfig.register(VARForC2IConfig.model_type, VARForC2IConfig, exist_ok=True)
