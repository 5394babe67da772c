"""Training the demo's transformer and residual diffusion head, teacher-forced.

The finished encoder maps every training scene once. Each step quantizes some of the maps, with
mistakes, words captions for them, and has the frozen text model encode these.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hart.demo.captions import caption
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.utils.prompts import encode_prompts
from recipes.demo.autoencoder import PATCH_NUMS
from recipes.demo.latents import LatentData, tokens_with_mistakes, training_scenes
from recipes.demo.loop import Phase, PhaseReport, run_phase, training_autocast
from recipes.demo.muon import muon_and_adamw
from recipes.demo.teacher_forcing import TeacherForcedPass, keep_tokens
from recipes.demo.text import CONTEXT_TOKENS, DEMO_SYSTEM_PROMPT

EMPTY_TEXTS = 0.2
WITHOUT_SYSTEM_PROMPT = 0.15

EARLY_STEPS = 0.6
"""Share of the steps that see the first stages only, of a larger batch."""
EARLY_BATCH, EARLY_SHARES = 24, (1.0,) * 8
BATCH = 10
SHARES = (1.0,) * 8 + (0.6, 0.4, 0.25, 0.17)
"""Of the tokens of every stage, what a step of all stages sees."""

DEPTH = 10
TRANSFORMER = Phase("transformer", steps=9000, learning_rate=2e-3, seed=21, warmup=0.02)
MUON_LEARNING_RATE = 0.02
MISTAKES = 0.4
"""Largest noise of a picture's tokens; see :func:`tokens_with_mistakes`."""


def demo_transformer_config(vae: HARTAutoEncoder, context_dim: int) -> HARTForT2IConfig:
    """The published model's layout (llama, plain blocks, residual diffusion), small."""
    return HARTForT2IConfig(
        context_token=CONTEXT_TOKENS,
        context_dim=context_dim,
        depth=DEPTH,
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
        diffusion_batch_mul=2,
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
    weights: dict[str, torch.Tensor] | None = None,
) -> tuple[HARTForT2I, PhaseReport]:
    """Train from nothing, or go on where ``folder`` left off.

    Args:
        vae: finished encoder and codebook, in eval mode.
        text_model, tokenizer: finished text encoder.
        scale: factor of step count and number of scenes (tests use a small one).
        compile_blocks: run the blocks through torch.compile, which needs a C++ compiler.
        weights: to begin with in the place of fresh ones.

    Returns:
        The model in eval mode and what was done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(TRANSFORMER.seed)
    model = HARTForT2I(demo_transformer_config(vae, text_model.config.hidden_size))
    model.init_weights(init_std=-1)
    if weights is not None:
        model.load_state_dict(deepened(weights, DEPTH))
    model.attach_autoencoder(vae)
    model.to(device).train()
    scenes = training_scenes(TRANSFORMER.seed)
    if scale < 1:
        scenes = scenes[: max(BATCH, round(len(scenes) * scale))]
    phase = replace(TRANSFORMER, steps=max(2, round(TRANSFORMER.steps * scale)))
    data = LatentData(vae, folder, scenes, quiet, device)
    loss = TeacherForcing(model, data, text_model, tokenizer, compile_blocks)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    optimizers = muon_and_adamw(model, matrices, MUON_LEARNING_RATE, phase.learning_rate)
    report = run_phase(phase, model, loss, folder, quiet, optimizers)
    return model.eval(), report


def deepened(weights: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """State dict with ``depth`` blocks, at most twice as many as it has, that draws the same.

    New blocks stand between the others, away from both ends; each is a copy of the one before it
    whose two last matrices are zero, so that it adds nothing until it has learnt to.
    """
    blocks = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    new = depth - blocks
    first = (blocks - new) // 2
    sources = sorted([*range(blocks), *range(first, first + new)])
    grown = {name: value for name, value in weights.items() if not name.startswith("blocks.")}
    for place, source in enumerate(sources):
        added = place > 0 and sources[place - 1] == source
        prefix = f"blocks.{source}."
        for name in filter(lambda name: name.startswith(prefix), weights):
            part, value = name.removeprefix(prefix), weights[name]
            last = part.startswith(("attn.proj.", "ffn.down_proj."))
            grown[f"blocks.{place}.{part}"] = torch.zeros_like(value) if added and last else value
    return grown


class TeacherForcing:
    """Loss of one training step: (step, generator) to the loss and the numbers to show.

    Most steps see only the first stages of a larger batch. They decide what is drawn, are the
    hardest to learn, and cost little without the many tokens of the late ones.
    """

    def __init__(
        self,
        model: HARTForT2I,
        data: LatentData,
        text_model,
        tokenizer,
        compile_blocks: bool = False,
    ) -> None:
        self.model, self.data, self.device = model, data, data.device
        self.text_model, self.tokenizer = text_model, tokenizer
        self.forward = TeacherForcedPass(model, compile_blocks)

    def __call__(self, step: int, rng: np.random.Generator):
        early = rng.random() < EARLY_STEPS
        n, shares = (EARLY_BATCH, EARLY_SHARES) if early else (BATCH, SHARES)
        tokens, text = self._sample(rng, n, len(shares))
        kept = keep_tokens(PATCH_NUMS, shares, self.model.context_token)
        hidden, cond = self.forward(text.context, text.positions, tokens.inputs, kept)
        with training_autocast(self.device):
            logits = self.model.get_logits(hidden, cond)
        wanted = [ids[:, places] for ids, places in zip(tokens.wanted, kept.of_stage, strict=True)]
        per_stage = self._per_stage(logits, wanted)
        loss = self._weighted(per_stage)
        if early:
            return loss, {"ce_early": per_stage[:6].mean().item()}
        last = kept.of_stage[-1]
        with training_autocast(self.device):
            diff_loss = self.model._residual_loss(
                hidden[:, -len(last) :], logits[:, -len(last) :], tokens.rest[:, last], wanted[-1]
            )
        shown = {
            "ce": loss.item(),
            "ce_early": per_stage[:6].mean().item(),
            "ce_last": per_stage[-1].item(),
            "diff": diff_loss.item(),
        }
        return loss + 0.5 * diff_loss, shown

    @torch.no_grad()
    def _sample(self, rng: np.random.Generator, n: int, stages: int):
        f, scenes = self.data.sample(rng, n)
        noise = torch.from_numpy(rng.random(n, dtype=np.float32) * MISTAKES)
        quantizer = self.model.vae_quant_proxy[0]
        tokens = tokens_with_mistakes(quantizer, f, stages, noise.to(self.device))
        captions = [caption(scene, rng) for scene in scenes]
        _, mask, positions, context = encode_prompts(
            captions,
            self.text_model,
            self.tokenizer,
            CONTEXT_TOKENS,
            DEMO_SYSTEM_PROMPT,
            use_llm_system_prompt=rng.random() >= WITHOUT_SYSTEM_PROMPT,
        )
        dropped = rng.random(n) < EMPTY_TEXTS
        text = EncodedText(context, positions, mask).emptied(torch.from_numpy(dropped))
        return tokens, text

    @staticmethod
    def _per_stage(logits: torch.Tensor, wanted: list[torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy of every stage, (stages,), from logits (B, n, V)."""
        errors = F.cross_entropy(
            logits.flatten(0, 1), torch.cat(wanted, dim=1).flatten(), reduction="none"
        )
        errors = errors.view(len(logits), -1).mean(dim=0)
        return torch.stack([part.mean() for part in errors.split([w.shape[1] for w in wanted])])

    @staticmethod
    def _weighted(per_stage: torch.Tensor) -> torch.Tensor:
        """Few tokens decide what is drawn, many how: a stage weighs as the root of its count."""
        weights = torch.tensor(PATCH_NUMS[: len(per_stage)], dtype=torch.float32)
        weights = weights.to(per_stage.device)
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
