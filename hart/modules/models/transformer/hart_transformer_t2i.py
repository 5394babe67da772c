"""HART's text-to-image transformer: the plain model, numerically equal to the public one.

Paper: HART, arXiv 2410.10812. What it shares with class-conditional models is in
``stage_transformer.py``, the sampling loop in ``sampling.py``, the teacher-forced training pass in
``training.py`` and reading checkpoints in ``checkpoint.py``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from transformers import AutoModel

from hart.modules.diffusion.diffloss import DiffLoss
from hart.modules.models.transformer.checkpoint import resolve_autoencoder_sizes
from hart.modules.models.transformer.conditions import TextCondition
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.random_source import CopyableGenerator
from hart.modules.models.transformer.stage_transformer import (
    SharedAdaLin,
    check_sides,
    norm_layer_of,
)
from hart.modules.models.transformer.training import TrainingTransformer
from hart.modules.networks.utils import mask_by_order
from hart.utils.adapted import input_dtype
from hart.utils.model_sizes import Axis, Count

__all__ = ["CopyableGenerator", "HARTForT2I", "SharedAdaLin", "mask_by_order"]


class HARTForT2I(TrainingTransformer):
    """Text-to-image HART.

    The image autoencoder is not a submodule and not part of the state dict: it is attached, or
    found beside the checkpoint when it is first needed.

    Args:
        config: sizes and variants; see :class:`HARTForT2IConfig`.

    Raises:
        ValueError: ``patch_nums`` does not start with 1 or has fewer than two stages, or
            ``context_token`` is not positive.
    """

    config_class = HARTForT2IConfig
    condition_class = TextCondition
    WEIGHT_SIZES: ClassVar[dict[str, Axis | Count]] = {
        "embed_dim": Axis("word_embed.weight", 0),
        "z_channels": Axis("word_embed.weight", 1),
        "vocab_size": Axis("head.weight", 0),
        "context_dim": Axis("context_embed.weight", 1),
        "depth": Count("blocks."),
        "diff_width": Axis("diffloss.net.input_proj.weight", 0),
        "diff_depth": Count("diffloss.net.res_blocks."),
    }

    def __init__(self, config: HARTForT2IConfig):
        super().__init__(config)
        check_sides(config.patch_nums, first=1)
        resolve_autoencoder_sizes(config)
        self._set_sizes(config, config.context_token)
        norm_layer = norm_layer_of(config)
        self.word_embed = nn.Linear(self.Cvae, self.C)
        self.context_embed = nn.Linear(self.context_dim, self.C)
        self.context_norm = (
            norm_layer(self.context_dim) if config.use_context_norm else nn.Identity()
        )
        self._add_positions(config)
        self.shared_ada_lin = nn.Identity()
        self._add_blocks_and_head(config, self.context_token)
        self.decoder_norm = norm_layer(self.C)
        self.diffloss = DiffLoss(
            target_channels=self.Cvae,
            z_channels=self.C,
            depth=config.diff_depth,
            width=config.diff_width,
            num_sampling_steps=config.num_sampling_steps,
            sampler=config.sampler,
        )
        self._finish()

    def _set_sizes(self, config: HARTForT2IConfig, first_l: int) -> None:
        super()._set_sizes(config, first_l)
        self.context_token, self.context_dim = config.context_token, config.context_dim
        self.context_shape = (self.context_token, self.context_dim)
        self.disable_aln = config.disable_aln
        self.use_timestep_embed = config.use_timestep_embed
        self.sep_aln_pooling_mode = config.sep_aln_pooling_mode
        self.use_cross_attn = config.use_cross_attn
        self.diffusion_batch_mul = config.diffusion_batch_mul
        self.diffusion_head_repeats = config.diffusion_head_repeats

    def embed_context(self, context: torch.Tensor) -> torch.Tensor:
        """Text features (rows, T, E) to conditioning and input embedding (rows, T, C)."""
        if not torch.is_autocast_enabled(context.device.type):
            context = context.to(input_dtype(self.context_embed, self))
        return self.context_embed(self.context_norm(context))

    @torch.no_grad()
    def init_weights(self, *args, **kwargs) -> None:
        """As in :class:`StageTransformer`; the diffusion head has its own way."""
        super().init_weights(*args, **kwargs)
        if getattr(self, "_constructed", False):
            self.diffloss.net.initialize_weights()


AutoModel.register(HARTForT2IConfig, HARTForT2I, exist_ok=True)
