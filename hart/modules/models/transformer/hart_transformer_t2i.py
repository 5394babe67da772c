"""HART's text-to-image transformer: the plain model, numerically equal to the public one.

Paper: HART, arXiv 2410.10812. What it shares with class-conditional models is in
``stage_transformer.py``, the sampling loop in ``sampling.py``, the teacher-forced training pass in
``training.py`` and reading checkpoints in ``checkpoint.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from transformers import AutoModel

from hart.modules.diffusion.diffloss import DiffLoss
from hart.modules.models.transformer.checkpoint import resolve_autoencoder_sizes
from hart.modules.models.transformer.conditions import TextCondition
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.generation_state import StageCallback
from hart.modules.models.transformer.random_source import CopyableGenerator
from hart.modules.models.transformer.sampling import SamplingMixin, mask_by_order
from hart.modules.models.transformer.stage_transformer import (
    SharedAdaLin,
    StageTransformer,
    check_sides,
    norm_layer_of,
)
from hart.modules.models.transformer.training import TrainingMixin
from hart.utils.adapted import input_dtype
from hart.utils.model_sizes import Axis, Count

__all__ = ["CopyableGenerator", "HARTForT2I", "SharedAdaLin", "mask_by_order"]


class HARTForT2I(SamplingMixin, TrainingMixin, StageTransformer):
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
        self.word_embed = nn.Linear(config.z_channels, self.C)
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

    def autoregressive_infer_cfg(
        self,
        B: int,
        label_B: torch.Tensor,
        g_seed: int | None = None,
        cfg: float = 1.5,
        top_k: int = 0,
        top_p: float = 0.0,
        more_smooth: bool = False,
        context_position_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        final_stage: int = 0,
        num_maskgit_iters: int = 1,
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        callback: StageCallback | None = None,
    ) -> torch.Tensor:
        """Draw images for text features.

        With ``g_seed`` the draws are those of the public implementation: token ids from a
        generator seeded with it, the rest from numpy's and torch's global generators. With
        ``generator`` every draw of an image comes from its own generator.

        Args:
            B: number of images.
            label_B: text features (B, T, E).
            g_seed: seed of the token draws; None draws them from the device's global generator.
            cfg: guidance scale, reached in the last stage but one.
            top_k: ignored, as in the public implementation: 600 candidates in the first seven
                stages, 300 afterwards.
            top_p: nucleus mass, 0 means off.
            more_smooth: soft mixtures instead of single codebook rows.
            context_position_ids: (B, T) int64 positions of the text tokens.
            context_mask: (B, T) nonzero at real text tokens.
            final_stage: 0 adds the residual of the diffusion head, any other value does not.
            num_maskgit_iters: chunks of the last stage, at most its tokens; 0 leaves it out.
            generator: one generator, or one per image.
            callback: called after every stage with its index and the number of stages.

        Returns:
            (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: arguments of the wrong shape or number.
            RuntimeError: another thread is generating on this model.
        """
        f_hat = self.generate_feature_map(
            B,
            label_B,
            g_seed,
            cfg,
            top_p=top_p,
            more_smooth=more_smooth,
            context_position_ids=context_position_ids,
            context_mask=context_mask,
            final_stage=final_stage,
            num_maskgit_iters=num_maskgit_iters,
            generator=generator,
            callback=callback,
        )
        return self.decode_feature_map(f_hat)

    @torch.no_grad()
    def init_weights(self, *args, **kwargs) -> None:
        """As in :class:`StageTransformer`; the diffusion head has its own way."""
        super().init_weights(*args, **kwargs)
        if getattr(self, "_constructed", False):
            self.diffloss.net.initialize_weights()


AutoModel.register(HARTForT2IConfig, HARTForT2I, exist_ok=True)
