"""Training the demo's transformer and residual diffusion head, teacher-forced over all stages.

The pictures' tokens are computed once by the finished autoencoder; captions are drawn anew for
every picture several times, and the frozen text model encodes them in every step.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hart.demo.muon import muon_and_adamw
from hart.demo.token_data import Supply, TokenData
from hart.demo.train_autoencoder import PATCH_NUMS
from hart.demo.train_text import CONTEXT_TOKENS, DEMO_SYSTEM_PROMPT
from hart.demo.training_loop import Phase, PhaseReport, run_phase, training_autocast
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.utils.prompts import encode_prompts

DROPPED_TEXT, CLOSING_DROPPED_TEXT = 0.1, 0.4
WITHOUT_SYSTEM_PROMPT = 0.15


BATCH = 16
EARLY_SHARE, EARLY_BATCH, EARLY_STAGES = 0.65, 32, 7
CLOSING_STEPS, CLOSING_HARD_SHARE = 1 / 4, 0.35
"""The last part of all steps, and the share of hard scenes in it."""
TRANSFORMER = Phase("transformer", steps=5620, learning_rate=2e-3, seed=21, warmup=0.03)
MUON_LEARNING_RATE = 0.02
PICTURES = Supply(seed=21, chunk=512, chunks=48)


def demo_transformer_config(vae: HARTAutoEncoder, context_dim: int) -> HARTForT2IConfig:
    """The published model's layout (llama, plain blocks, residual diffusion), small."""
    return HARTForT2IConfig(
        context_token=CONTEXT_TOKENS,
        context_dim=context_dim,
        depth=6,
        embed_dim=256,
        num_heads=4,
        patch_nums=PATCH_NUMS,
        mlp_type="llama",
        attn_type="llama",
        disable_aln=True,
        shared_aln=False,
        use_timestep_embed=True,
        use_context_norm=True,
        diff_width=256,
        diff_depth=3,
        # The training pass drops text where a standard normal variate is below this rate.
        cond_drop_rate=NormalDist().inv_cdf(DROPPED_TEXT),
        vocab_size=vae.config.vocab_size,
        z_channels=vae.config.z_channels,
    )


def train_transformer(
    vae: HARTAutoEncoder,
    text_model: nn.Module,
    tokenizer,
    folder: Path,
    scale: float = 1.0,
    quiet: bool = False,
    device: str = "cpu",
    compile_blocks: bool = False,
) -> tuple[HARTForT2I, PhaseReport]:
    """Train from nothing, or go on where ``folder`` left off.

    Args:
        vae: finished autoencoder, in eval mode.
        text_model, tokenizer: finished text encoder.
        scale: factor of step count and number of pictures (tests use a small one).
        compile_blocks: run the blocks through torch.compile, which needs a C++ compiler.

    Returns:
        The model in eval mode and what was done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(TRANSFORMER.seed)
    model = HARTForT2I(demo_transformer_config(vae, text_model.config.hidden_size))
    model.init_weights(init_std=-1)
    model.attach_autoencoder(vae)
    model.to(device).train()
    model.cond_drop_rate = -math.inf  # TeacherForcing empties texts itself
    if compile_blocks:
        for block in model.blocks:
            block.forward_function = torch.compile(block.forward_function, dynamic=True)
    supply = PICTURES
    if scale < 1:
        supply = replace(supply, chunk=max(BATCH, round(supply.chunk * scale)), chunks=1)
    phase = replace(TRANSFORMER, steps=max(2, round(TRANSFORMER.steps * scale)))
    data = TokenData(vae, folder, supply, quiet, device)
    closing_from = round(phase.steps * (1 - CLOSING_STEPS))
    loss = TeacherForcing(model, data, text_model, tokenizer, closing_from)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    optimizers = muon_and_adamw(model, matrices, MUON_LEARNING_RATE, phase.learning_rate)
    report = run_phase(phase, model, loss, folder, quiet, optimizers)
    if compile_blocks:
        for block in model.blocks:
            del block.forward_function  # the class's own again
    return model.eval(), report


class TeacherForcing:
    """Loss of one training step: (step, generator) to the loss and the numbers to show.

    Most steps see only the first stages of a larger batch. They decide what is drawn, are the
    hardest to learn, and cost little without the many tokens of the late ones. From the step
    ``closing_from`` on, the scenes that are hardest to draw come more often, and so do empty
    texts: guidance multiplies the difference between a caption's logits and an empty text's, and
    with it every error of the latter.
    """

    def __init__(
        self, model: HARTForT2I, data: TokenData, text_model, tokenizer, closing_from: int
    ) -> None:
        self.model, self.data, self.device = model, data, data.device
        self.closing_from = closing_from
        self.text_model, self.tokenizer = text_model, tokenizer
        device = self.device
        self.counts = torch.tensor([side**2 for side in PATCH_NUMS[:-1]], device=device)
        self.stage_of = torch.arange(len(self.counts), device=device).repeat_interleave(self.counts)
        # Few tokens decide what is drawn, many how: a stage weighs as the root of its token count.
        self.weights = torch.tensor(PATCH_NUMS, dtype=torch.float32, device=device)

    def __call__(self, step: int, rng: np.random.Generator):
        np.random.seed(int(rng.integers(2**32)))
        closing = step >= self.closing_from
        if rng.random() < EARLY_SHARE:
            return self._early_stages(rng, closing)
        return self._all_stages(rng, closing)

    def _early_stages(self, rng: np.random.Generator, closing: bool):
        ids, _, text, maps = self._sample(rng, EARLY_BATCH, closing)
        with training_autocast(self.device):
            logits = self.model.early_logits(
                text.context, maps, text.positions, text.mask, EARLY_STAGES
            )
        per_stage = self._per_stage(logits, ids[:EARLY_STAGES])
        shown = {"ce_early": per_stage[:5].mean().item()}
        return self._weighted(per_stage), shown

    def _all_stages(self, rng: np.random.Generator, closing: bool):
        ids, rest, text, maps = self._sample(rng, BATCH, closing)
        with training_autocast(self.device):
            logits, diff_loss, kept = self.model(
                text.context, maps, text.positions, text.mask, rest, ids[-1]
            )
        known = len(self.stage_of)
        last = F.cross_entropy(logits[:, known:].flatten(0, 1), ids[-1][kept])
        per_stage = torch.cat((self._per_stage(logits[:, :known], ids[:-1]), last[None]))
        loss = self._weighted(per_stage)
        shown = {
            "ce": loss.item(),
            "ce_early": per_stage[:5].mean().item(),
            "ce_last": last.item(),
            "diff": diff_loss.item(),
        }
        return loss + 0.5 * diff_loss, shown

    @torch.no_grad()
    def _sample(self, rng: np.random.Generator, n: int, closing: bool):
        hard_share = CLOSING_HARD_SHARE if closing else 0.0
        ids, rest, captions = self.data.sample(rng, n, hard_share)
        _, mask, positions, context = encode_prompts(
            captions,
            self.text_model,
            self.tokenizer,
            CONTEXT_TOKENS,
            DEMO_SYSTEM_PROMPT,
            use_llm_system_prompt=rng.random() >= WITHOUT_SYSTEM_PROMPT,
        )
        dropped = rng.random(n) < (CLOSING_DROPPED_TEXT if closing else DROPPED_TEXT)
        text = EncodedText(context, positions, mask).emptied(torch.from_numpy(dropped))
        maps = self.model.vae_quant_proxy[0].idxBl_to_var_input(ids)
        return ids, rest, text, maps

    def _per_stage(self, logits: torch.Tensor, ids: list[torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy of every stage, (stages,), from logits (B, n, V)."""
        target = torch.cat(ids, dim=1)
        errors = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        errors = errors.view(target.shape).mean(dim=0)
        sums = errors.new_zeros(len(ids)).index_add_(0, self.stage_of[: len(errors)], errors)
        return sums / self.counts[: len(ids)]

    def _weighted(self, per_stage: torch.Tensor) -> torch.Tensor:
        weights = self.weights[: len(per_stage)]
        return (per_stage * weights).sum() / weights.sum()


class EncodedText(NamedTuple):
    """Captions as the transformer takes them: (B, T, E), (B, T), (B, T)."""

    context: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor

    def emptied(self, rows: torch.Tensor) -> EncodedText:
        """With the rows (B,) that are True as guidance's unconditional half: zeros, at zero.

        The mask stays; it matters to pooled conditioning alone, which plain blocks do not have.
        """
        rows = rows.to(self.context.device)[:, None]
        context = self.context.masked_fill(rows[..., None], 0)
        return self._replace(context=context, positions=self.positions.masked_fill(rows, 0))
