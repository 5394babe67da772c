"""What every transformer that predicts an image stage by stage has, whatever its condition.

:class:`HARTForT2I` adds text and a diffusion head to it, :class:`VARForC2I` classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

from hart.modules.models.transformer.checkpoint import CheckpointModel
from hart.modules.models.transformer.random_source import CopyableGenerator
from hart.modules.networks.basic_hart import (
    AdaLNBeforeHead,
    AdaLNSelfAttn,
    LlamaRMSNormFused,
    TimestepEmbedder,
)
from hart.modules.networks.rope import MaskIndex
from hart.utils.adapted import compute_device, input_dtype


class SharedAdaLin(nn.Linear):
    """Linear layer whose output is six modulation vectors, (-1, 1, 6, C)."""

    def forward(self, cond_BD: torch.Tensor) -> torch.Tensor:
        C = self.out_features // 6
        return super().forward(cond_BD).view(-1, 1, 6, C)


class StageTransformer(CheckpointModel):
    """Embeddings of tokens, stages and positions, the blocks, and the token head.

    The image autoencoder is not a submodule and not part of the state dict: it is attached, or
    found beside the checkpoint when it is first needed.

    Attributes:
        caches_features: whether it has what :class:`FeatureCachingMixin` adds.

    Subclasses call :meth:`_set_sizes`, register their modules between :meth:`_add_positions` and
    :meth:`_add_blocks_and_head`, and end their constructor with :meth:`_finish`.
    """

    base_model_prefix = ""
    caches_features = False
    main_input_name = "label_B"
    supports_gradient_checkpointing = True
    block_class: type[AdaLNSelfAttn] = AdaLNSelfAttn
    init_std = 0.02
    context_token: int
    # What calling them gives, or what they hold, is not in the type of a module.
    word_embed: Any
    shared_ada_lin: Any
    blocks: Any
    head_nm: Any
    head: Any
    lvl_embed: nn.Module
    lvl_1L: torch.Tensor  # noqa: N815
    _rng: CopyableGenerator | None = None

    def _set_sizes(self, config: PretrainedConfig, first_l: int) -> None:
        """Attributes under the names that code written for the public implementations reads.

        Args:
            first_l: positions of stage 0 in the sequence.
        """
        self.V, self.Cvae = config.vocab_size, config.z_channels
        self.patch_nums = tuple(config.patch_nums)
        self.depth, self.num_heads = config.depth, config.num_heads
        self.C = self.D = config.embed_dim
        self.first_l = first_l
        self.L = sum(side**2 for side in self.patch_nums)
        lengths = [first_l] + [side**2 for side in self.patch_nums[1:]]
        self.sequence_length = sum(lengths)
        ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
        self.begin_ends = [(end - n, end) for end, n in zip(ends, lengths, strict=True)]
        self.num_stages_minus_1 = len(self.patch_nums) - 1
        self.last_level_pns = self.patch_nums[-1] ** 2
        self.prog_si = -1
        self.mlp_type, self.attn_type = config.mlp_type, config.attn_type
        self.cond_drop_rate, self.drop_path_rate = config.cond_drop_rate, config.drop_path_rate
        self.using_fused_add_norm_fn = False
        self._set_gradient_checkpointing(False)

    def _add_positions(self, config: PretrainedConfig) -> None:
        if config.attn_type == "gpt2":
            std = math.sqrt(1 / self.C / 3)
            self.pos_start = nn.Parameter(torch.randn(1, self.first_l, self.C) * std)
            self.pos_1LC = nn.Parameter(torch.randn(1, self.sequence_length, self.C) * std)
        if config.use_timestep_embed:
            self.lvl_embed = TimestepEmbedder(self.C)
        else:
            self.lvl_embed = nn.Embedding(len(self.patch_nums), self.C)
        self.register_buffer("lvl_1L", self._levels(device=None))

    def _add_blocks_and_head(self, config: PretrainedConfig, context_token: int = 0) -> None:
        norm_layer = norm_layer_of(config)
        rates = torch.linspace(0, config.drop_path_rate, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            self._build_block(i, config, norm_layer, rates, context_token)
            for i in range(self.depth)
        )
        self.head_nm = AdaLNBeforeHead(self.C, self.D, norm_layer)
        self.head = nn.Linear(self.C, self.V)

    def _build_block(self, block_idx, config, norm_layer, rates, context_token) -> nn.Module:
        return self.block_class(
            block_idx=block_idx,
            last_drop_p=rates[block_idx - 1] if block_idx else 0.0,
            embed_dim=self.C,
            cond_dim=self.D,
            shared_aln=config.shared_aln,
            norm_layer=norm_layer,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            drop=config.drop_rate,
            attn_drop=config.attn_drop_rate,
            drop_path=rates[block_idx],
            attn_l2_norm=config.attn_l2_norm,
            flash_if_available=config.flash_if_available,
            fused_if_available=config.fused_if_available,
            mlp_type=config.mlp_type,
            attn_type=config.attn_type,
            max_position_embeddings=2 ** math.ceil(math.log2(self.sequence_length)),
            patch_nums=self.patch_nums,
            context_token=context_token,
            disable_aln=config.disable_aln,
            sep_aln_pooling_mode=config.sep_aln_pooling_mode,
            use_cross_attn=config.use_cross_attn,
        )

    def _finish(self) -> None:
        self.post_init()
        self._constructed = True

    def _levels(self, device: str | None = "cpu") -> torch.Tensor:
        """(1, N) int64: the stage of every position of the whole sequence."""
        lengths = [end - begin for begin, end in self.begin_ends]
        counts = torch.tensor(lengths, dtype=torch.int64, device=device)
        levels = torch.arange(len(counts), dtype=torch.int64, device=device)
        return levels.repeat_interleave(counts, output_size=self.sequence_length)[None]

    @property
    def attn_bias_for_masking(self) -> torch.Tensor:
        """(1, 1, N, N) additive block mask of training: 0 where the key's stage is not later.

        Built when asked for; it is quadratic in the sequence and inference never uses it.
        """
        return self._stage_mask(self.sequence_length, torch.float32)

    def _stage_mask(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        levels = self.lvl_1L[0, :length]
        bias = torch.zeros(length, length, dtype=dtype, device=levels.device)
        return bias.masked_fill(levels[:, None] < levels[None, :], -torch.inf)[None, None]

    @property
    def innermost(self) -> StageTransformer:
        """The model itself, whatever forwards its attributes; see :func:`innermost`."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the model computes: with ``accelerate``'s offload not where its weights lie."""
        return compute_device(self)

    @property
    def rng(self) -> CopyableGenerator:
        """Generator of ``g_seed`` draws, on the model's device; made when first used."""
        if self._rng is None or self._rng.device.type != self.device.type:
            self._rng = CopyableGenerator(device=self.device)
        return self._rng

    def embed_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """Feature-map values (rows, n, Z) to token embeddings (rows, n, C)."""
        return self.word_embed(values.to(input_dtype(self.word_embed, self)))

    def level_embeddings(self) -> torch.Tensor:
        """(S, C), one row per stage."""
        levels = torch.arange(len(self.patch_nums), device=self.device)
        return self.lvl_embed(levels)

    def get_logits(
        self,
        h_or_h_and_residual: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        cond_BD: torch.Tensor,
    ) -> torch.Tensor:
        """float32 logits (rows, n, V) from block outputs (rows, n, C) and the condition.

        The condition is text (rows, T, C) or a class (rows, C). A pair of tensors stands for its
        sum.
        """
        if not isinstance(h_or_h_and_residual, torch.Tensor):
            hidden, residual = h_or_h_and_residual
            h_or_h_and_residual = hidden + residual
        normed = self.head_nm(h_or_h_and_residual.float(), cond_BD)
        if not torch.is_autocast_enabled(normed.device.type):
            normed = normed.to(input_dtype(self.head, self))
        return self.head(normed).float()

    def _run_training_blocks(
        self,
        x: torch.Tensor,
        cond: torch.Tensor,
        visible: MaskIndex | None = None,
        context_position_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """All blocks on the beginning of the teacher-forced sequence: (B, n, C) to (B, n, C).

        Args:
            visible: which positions after the text are present, where some are masked.
        """
        bias = self._stage_mask(x.shape[1], x.dtype)
        cond = self.shared_ada_lin(cond)
        checkpointing = self.gradient_checkpointing and self.training
        for layer, block in enumerate(self.blocks):
            arguments = (x, cond, bias, -1, context_position_ids, context_mask, visible)
            if checkpointing and layer % self._checkpointed_every == 0:
                x = self._gradient_checkpointing_func(block, *arguments)
            else:
                x = block(*arguments)
        return x

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable | None = None,
        every_n_layers: int = 1,
    ) -> None:
        """What ``gradient_checkpointing_enable`` and ``_disable`` of ``transformers`` call.

        Setting ``gradient_checkpointing`` to True does it with torch's defaults.
        """
        default = partial(checkpoint, use_reentrant=False)
        self._gradient_checkpointing_func = gradient_checkpointing_func or default
        self._checkpointed_every = every_n_layers
        self.gradient_checkpointing = enable

    def get_input_embeddings(self) -> nn.Module:
        """What embeds the tokens of the maps; adapters look for it here."""
        return self.word_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.word_embed = value

    @torch.no_grad()
    def init_weights(
        self,
        init_adaln: float = 0.5,
        init_adaln_gamma: float = 1e-5,
        init_head: float = 0.02,
        init_std: float | None = None,
        conv_std_or_gain: float = 0.02,
    ) -> None:
        """Draw fresh weights for training.

        ``init_std`` is the class's own by default; a negative one means ``sqrt(1 / C / 3)``.

        The library calls a hook of this name while the constructor runs; that call does nothing.
        """
        if not getattr(self, "_constructed", False):
            return
        std = self.init_std if init_std is None else init_std
        std = std if std >= 0 else math.sqrt(1 / self.C / 3)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        if init_head >= 0:
            self.head.weight.mul_(init_head)
        self.head_nm.ada_lin[-1].weight.mul_(init_adaln)
        for block in self.blocks:
            self._init_block(block, init_adaln, init_adaln_gamma)

    def _init_block(self, block: Any, init_adaln: float, init_adaln_gamma: float) -> None:
        block.attn.proj.weight.div_(math.sqrt(2 * self.depth))
        if hasattr(block.ffn, "fc2"):
            block.ffn.fc2.weight.div_(math.sqrt(2 * self.depth))
        if hasattr(block, "ada_lin"):
            linear = block.ada_lin[-1]
            linear.weight[2 * self.C :].mul_(init_adaln)
            linear.weight[: 2 * self.C].mul_(init_adaln_gamma)
            linear.bias.zero_()
        if hasattr(block, "ada_gss"):
            block.ada_gss[:, :, 2:].mul_(init_adaln)
            block.ada_gss[:, :, :2].mul_(init_adaln_gamma)

    def _init_weights(self, module: nn.Module) -> None:
        """Restore constant buffers that a checkpoint may lack; weights are never touched here."""
        if module is self and not self.lvl_1L.is_meta:
            self.lvl_1L.copy_(self._levels())
        if hasattr(module, "zero_k_bias"):
            module.zero_k_bias.zero_()  # type: ignore[operator]


def positions_in(mask: torch.Tensor) -> MaskIndex:
    """Where a mask (B, n) is True: samples and positions."""
    samples, positions = mask.nonzero(as_tuple=True)
    return samples, positions


def in_every_row(positions: torch.Tensor) -> MaskIndex:
    """:func:`positions_in` of the mask that is True at these positions (B, n), ascending."""
    rows = torch.arange(len(positions), dtype=torch.int64, device=positions.device)
    return rows[:, None].expand_as(positions).flatten(), positions.flatten()


def check_sides(patch_nums: Sequence[int], first: int | None = None) -> None:
    """Refuse sides that are no schedule.

    Args:
        first: the side that the first stage must have, None for any.

    Raises:
        ValueError: fewer than two stages, not increasing, or another first one.
    """
    sides = tuple(patch_nums)
    increasing = all(a < b for a, b in pairwise(sides))
    if len(sides) < 2 or not increasing or first not in (None, sides[0]):
        start = "" if first is None else f"start with {first}, "
        raise ValueError(f"patch_nums must {start}increase and have at least 2 stages, got {sides}")


def norm_layer_of(config: PretrainedConfig):
    """The family's norm as a callable of the width: RMS norm for llama, layer norm for gpt2."""
    norm = LlamaRMSNormFused if config.attn_type == "llama" else nn.LayerNorm
    return partial(norm, eps=config.norm_eps)
