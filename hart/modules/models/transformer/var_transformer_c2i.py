"""VAR's class-conditional transformer: the plain model, numerically equal to the public one.

Paper: VAR, arXiv 2404.02905. Blocks, head, sampling steps and state are HART's; what differs is the
condition (a class, not text), absolute positions in the input, and the last stage.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig

from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.autoencoder.vqvae import VQVAE
from hart.modules.models.transformer.checkpoint import WeightSource
from hart.modules.models.transformer.conditions import ClassCondition
from hart.modules.models.transformer.configuration_var import VARForC2IConfig
from hart.modules.models.transformer.sampling import SamplingTransformer
from hart.modules.models.transformer.stage_transformer import check_sides
from hart.modules.models.transformer.var_checkpoint import (
    PthSource,
    is_var_checkpoint,
    locate_var_files,
    var_config,
)
from hart.modules.networks.basic_hart import AdaLNSelfAttn
from hart.modules.networks.basic_var import ClassAdaLNSelfAttn
from hart.utils.model_sizes import Axis, Count
from hart.utils.weights import CheckpointError

__all__ = ["VARForC2I"]


class VARForC2I(SamplingTransformer):
    """Class-to-image VAR.

    Args:
        config: sizes; see :class:`VARForC2IConfig`.

    Raises:
        ValueError: ``patch_nums`` does not increase or has fewer than two stages, or a field asks
            for a variant of HART that VAR does not have.
    """

    config_class = VARForC2IConfig
    condition_class = ClassCondition
    WEIGHT_SIZES: ClassVar[dict[str, Axis | Count]] = {
        "embed_dim": Axis("word_embed.weight", 0),
        "z_channels": Axis("word_embed.weight", 1),
        "vocab_size": Axis("head.weight", 0),
        "depth": Count("blocks."),
    }
    block_class: type[AdaLNSelfAttn] = ClassAdaLNSelfAttn
    init_std = -1

    def __init__(self, config: VARForC2IConfig):
        super().__init__(config)
        check_sides(config.patch_nums)
        _check_variant(config)
        self._set_sizes(config, config.patch_nums[0] ** 2)
        self.num_classes = config.num_classes
        self.context_token = 0
        self.word_embed = nn.Linear(config.z_channels, self.C)
        self.class_emb = nn.Embedding(config.num_classes + 1, self.C)
        self._add_positions(config)
        self.shared_ada_lin = (
            nn.Sequential(
                nn.SiLU(), nn.Linear(self.C, 6 * self.C), nn.Unflatten(-1, (1, 6, self.C))
            )
            if config.shared_aln
            else nn.Identity()
        )
        self._add_blocks_and_head(config)
        self._finish()

    @property
    def uniform_prob(self) -> torch.Tensor:
        """(1, K), the probability of every class when classes are drawn."""
        share = 1 / self.num_classes
        return torch.full((1, self.num_classes), share, dtype=torch.float32, device=self.device)

    def forward(self, label_B: torch.Tensor, x_BLCv_wo_first_l: torch.Tensor) -> torch.Tensor:
        """One teacher-forced pass over all stages at once.

        In training, not in evaluation, a class is dropped with probability ``cond_drop_rate``; the
        draws are ``torch.rand(B)`` of the device's global generator.

        Args:
            label_B: class indices (B,).
            x_BLCv_wo_first_l: inputs of stages 1 .. S-1 (B, L - first_l, Z), see
                ``idxBl_to_var_input``.

        Returns:
            float32 logits (B, L, V).
        """
        bsz, device_type = len(label_B), label_B.device.type
        if self.training:
            variates = torch.rand(bsz, dtype=torch.float32, device=label_B.device)
            dropped = variates < self.cond_drop_rate
            label_B = label_B.masked_fill(dropped, self.num_classes)
        with torch.autocast(device_type, enabled=False):
            cond = self.class_emb(label_B)
            start = cond[:, None] + self.pos_start
            x = torch.cat((start, self.embed_tokens(x_BLCv_wo_first_l.float())), dim=1)
            x = x + self.level_embeddings()[self.lvl_1L[0]] + self.pos_1LC
        if torch.is_autocast_enabled(device_type):
            x = x.to(torch.get_autocast_dtype(device_type))
        return self.get_logits(self._run_training_blocks(x, cond), cond)

    # --- checkpoints: .pth files, else those of CheckpointModel -------------------------------

    @classmethod
    def _open(cls, path: Path, config: Any, use_ema: bool) -> tuple[WeightSource, PretrainedConfig]:
        """Of a ``.pth`` file, or a folder with one, the configuration is what the weights imply."""
        if not is_var_checkpoint(path):
            return super()._open(path, config, use_ema)
        if use_ema:
            raise CheckpointError(f"{path}: VAR's .pth files have no averaged weights (use_ema)")
        files = locate_var_files(path)
        source = PthSource(files.transformer)
        implied = var_config(source.headers, source.path)
        config = implied if config is None else copy.deepcopy(config)
        config.name_or_path = str(files.transformer)
        if config.vae_path is None and files.autoencoder is not None:
            config.vae_path = str(files.autoencoder)
        return source, config

    @classmethod
    def holds_weights(cls, path: Path) -> bool:
        return is_var_checkpoint(path) or super().holds_weights(path)

    def attach_autoencoder(self, vae: HARTAutoEncoder) -> None:
        """As in :class:`CheckpointModel`; the autoencoder must have the transformer's stages.

        Raises:
            ValueError: it has another codebook or other stages.
        """
        if tuple(vae.config.v_patch_nums) != self.patch_nums:
            raise ValueError(
                f"the autoencoder's v_patch_nums are {tuple(vae.config.v_patch_nums)}, "
                f"the transformer's patch_nums {self.patch_nums}"
            )
        super().attach_autoencoder(vae)

    def _load_autoencoder(self, path: Path) -> VQVAE:
        return VQVAE.from_pth(path, self.patch_nums, dtype=self.dtype, device=self.device)


def _check_variant(config: VARForC2IConfig) -> None:
    required = {
        "attn_type": "gpt2",
        "mlp_type": "gpt2",
        "disable_aln": False,
        "use_timestep_embed": False,
        "use_cross_attn": False,
    }
    for name, value in required.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name} must be {value!r} for VAR, got {getattr(config, name)!r}")


AutoModel.register(VARForC2IConfig, VARForC2I, exist_ok=True)
