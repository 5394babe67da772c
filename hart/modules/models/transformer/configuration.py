"""Configuration classes of the HART transformers, with the public code's names and defaults.

Every class forwards keywords that it does not know to ``PretrainedConfig``, so standard fields
(``architectures``, ``dtype``, ...) and a user's own survive saving and loading.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig

from hart.modules.models.transformer.fields import (
    CACHE_FIELDS,
    CLASS_FIELDS,
    DIFFUSION_FIELDS,
    GONE_FIELDS,
    TEXT_FIELDS,
    TRANSFORMER_FIELDS,
)
from hart.modules.networks.caching.numbers import plain
from hart.utils.checked_config import CheckedConfig, read_config

__all__ = [
    "HARTForC2IConfig",
    "HARTForT2IConfig",
    "VARTransformerConfig",
    "VARTransformerT2IConfig",
]

VAR_PATCH_NUMS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


class _TransformerConfig(CheckedConfig):
    """Fields that the class-conditional and the text-conditional transformers share.

    Args:
        vae_path: folder of the image autoencoder; None means the sibling folder ``tokenizer``.
        depth, embed_dim, num_heads, mlp_ratio: size of the transformer.
        drop_rate, attn_drop_rate, drop_path_rate, cond_drop_rate: training only.
        norm_eps: epsilon of all transformer norms.
        shared_aln, disable_aln: select the block variant (both False: separate AdaLN; both True:
            shared AdaLN; only ``disable_aln``: plain blocks, the published model's layout).
        attn_l2_norm: l2-normalised attention with a learned temperature per head.
        patch_nums: side of the token map of every stage, starting with 1.
        mlp_type, attn_type: "llama" or "gpt2".
        use_timestep_embed: sinusoidal level embedding with an MLP instead of a table.
        sep_aln_pooling_mode: "max" or "avg", pooling of the text in separate AdaLN.
        use_cross_attn: add cross-attention to the text in every block.

    What each field may hold is in ``fields.py``.

    Raises:
        ValueError: a field has a value that is not allowed.
    """

    FIELDS = TRANSFORMER_FIELDS

    def __init__(
        self,
        vae_path: str | None = None,
        depth: int = 16,
        embed_dim: int = 1024,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        shared_aln: bool = False,
        cond_drop_rate: float = 0.1,
        attn_l2_norm: bool = False,
        patch_nums: Sequence[int] = VAR_PATCH_NUMS,
        flash_if_available: bool = True,
        fused_if_available: bool = True,
        mlp_type: str = "gpt2",
        attn_type: str = "gpt2",
        disable_aln: bool = False,
        use_timestep_embed: bool = False,
        sep_aln_pooling_mode: str = "max",
        use_cross_attn: bool = False,
        diffusion_head_repeats: int = 1,
        **kwargs,
    ):
        given = locals()
        for name in TRANSFORMER_FIELDS:
            setattr(self, name, given[name])
        super().__init__(**kwargs)

    def __setattr__(self, name, value) -> None:
        value = plain(value)
        if name == "patch_nums" and isinstance(value, list):
            value = tuple(value)
        super().__setattr__(name, value)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As in ``PretrainedConfig``; remembers the folder, where the weights and the autoencoder
        are looked for. A local folder is read strictly.

        Raises:
            CheckpointError: see :func:`hart.utils.checked_config.read_config`.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir() and not kwargs:
            return read_config(folder, cls)
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config.name_or_path = str(pretrained_model_name_or_path)
        return loaded


class VARTransformerConfig(_TransformerConfig):
    """Class-conditional transformer; no model of this library uses it (kept for imports)."""

    model_type = "var_transformer"
    FIELDS = TRANSFORMER_FIELDS | CLASS_FIELDS

    def __init__(self, num_classes: int = 1000, latent_condition_weight: float = 1.0, **kwargs):
        self.num_classes = num_classes
        self.latent_condition_weight = latent_condition_weight
        super().__init__(**kwargs)


class VARTransformerT2IConfig(_TransformerConfig):
    """Text-conditional transformer: ``context_token`` text positions of width ``context_dim``."""

    model_type = "var_transformer_t2i"
    FIELDS = TRANSFORMER_FIELDS | TEXT_FIELDS

    def __init__(
        self,
        vae_path: str | None = None,
        context_token: int = 77,
        context_dim: int = 768,
        **kwargs,
    ):
        self.context_token = context_token
        self.context_dim = context_dim
        super().__init__(vae_path=vae_path, **kwargs)


class _DiffusionFieldsMixin:
    """In front of a configuration: size and sampler of the residual diffusion head."""

    def __init__(
        self,
        diff_width: int = 1024,
        diff_depth: int = 6,
        num_sampling_steps: str | int = "8",
        diffusion_batch_mul: int = 4,
        sampler: str = "iddpm",
        **kwargs,
    ):
        self.diff_width, self.diff_depth = diff_width, diff_depth
        self.num_sampling_steps = str(num_sampling_steps)
        self.diffusion_batch_mul, self.sampler = diffusion_batch_mul, sampler
        super().__init__(**kwargs)


class HARTForC2IConfig(_DiffusionFieldsMixin, VARTransformerConfig):
    """Class-conditional HART; no model of this library uses it (kept for imports)."""

    model_type = "hart_transformer_c2i"
    FIELDS = VARTransformerConfig.FIELDS | DIFFUSION_FIELDS


class CacheFieldsMixin:
    """In front of a configuration: one field for every option of :class:`CacheConfig`.

    ``cache_threshold`` is its ``threshold``, and so on. These fields, ``use_cache``,
    ``calibration``, ``sim_path`` and ``threshold`` (the older spelling of ``cache_threshold``,
    which wins) configure feature caching; None means "not set". A plain model ignores them.
    """

    def __init__(self, **kwargs):
        given = {name: kwargs.pop(name, None) for name in CACHE_FIELDS}
        super().__init__(**kwargs)
        for name, value in given.items():  # now: the base class has a use_cache of its own
            setattr(self, name, value)


class HARTForT2IConfig(_DiffusionFieldsMixin, CacheFieldsMixin, VARTransformerT2IConfig):
    """Text-to-image HART.

    Args:
        diffusion: the next five, if they are not given by name.
        diff_width, diff_depth: width and residual blocks of the residual diffusion head.
        num_sampling_steps: respacing specification of its sampler ("8", 8, "ddim25", "10,10").
        diffusion_batch_mul: repeats of the diffusion batch in the training loss.
        sampler: "iddpm".
        use_context_norm: normalise the text features before they are embedded.
        context_norm_scale: initial value of that norm's weight in upstream training code.
        vocab_size, z_channels: codebook size and latent channels of the autoencoder; None means
            those of the autoencoder's own configuration.
        kwargs: options of feature caching (:class:`CacheFieldsMixin`), fields of
            :class:`VARTransformerT2IConfig`.
    """

    model_type = "hart_transformer_t2i"
    FIELDS = VARTransformerT2IConfig.FIELDS | DIFFUSION_FIELDS | CACHE_FIELDS | GONE_FIELDS

    def __init__(
        self,
        *diffusion,
        use_context_norm: bool = False,
        context_norm_scale: float = 1.0,
        vocab_size: int | None = None,
        z_channels: int | None = None,
        **kwargs,
    ):
        self.use_context_norm = use_context_norm
        self.context_norm_scale = context_norm_scale
        self.vocab_size, self.z_channels = vocab_size, z_channels
        super().__init__(*diffusion, **kwargs)


for _config_class in (
    VARTransformerConfig,
    VARTransformerT2IConfig,
    HARTForC2IConfig,
    HARTForT2IConfig,
):
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
