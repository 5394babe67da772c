"""Adapting the finished decoder to what the transformer draws.

The last stage is drawn in one go, every token by itself, so its maps are rougher than those that
the encoder makes, and a decoder that never saw such maps turns them into ragged shapes. Here it
does: pictures are encoded, the transformer is given the true tokens of the first stages and the
caption, draws the rest by itself, and the decoder learns to make the picture from the result.
Encoder, codebook and transformer stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from hart.demo.data import render_batch
from hart.demo.muon import muon_and_adamw
from hart.demo.token_data import Supply
from hart.demo.train_autoencoder import MUON_SHARE, decode, encode, reconstruction_loss
from hart.demo.train_text import CONTEXT_TOKENS, DEMO_SYSTEM_PROMPT
from hart.demo.training_loop import Phase, PhaseReport, run_phase
from hart.engine.engine import Engine
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.utils.files import replacing
from hart.utils.prompts import encode_prompts

ADAPTATION = Phase("adaptation", steps=640, learning_rate=8e-4, seed=15)
PICTURES = Supply(seed=15, chunk=192, chunks=7)
PICTURES_AT_ONCE, BATCH = 16, 6
# The true stages end so late that what is drawn after them is still the same picture.
TRUE_STAGES = (6, 7, 8, 8)
TOP_P, CFG = (0.0, 0.5, 0.8), (3.0, 4.5, 6.0)
# Shares of a batch that are drawn, continuous and discrete maps.
DRAWN, CONTINUOUS = 0.7, 0.85
IMPOSSIBLE = -1e4


class PictureMaps(NamedTuple):
    """Pictures, uint8 (n, 3, H, W), with three feature maps of each, float16 (n, Z, P, P)."""

    pictures: torch.Tensor
    drawn: torch.Tensor
    continuous: torch.Tensor
    discrete: torch.Tensor


class TrueFirstStages(Engine):
    """The engine, but the first stages get the true tokens.

    Args:
        ids: true tokens per stage, (B, n).
        count: number of stages that get them.
    """

    def __init__(self, model: HARTForT2I, ids: list[torch.Tensor], count: int) -> None:
        super().__init__(model)
        self.true_ids = ids[:count]

    def guided_logits(self, hidden, run, t):
        """As of the engine; where the token is known, logits that leave no other choice."""
        logits = super().guided_logits(hidden, run, t)
        if not self.true_ids:
            return logits
        ids, self.true_ids = self.true_ids[0], self.true_ids[1:]
        return torch.full_like(logits, IMPOSSIBLE).scatter_(2, ids[..., None], 0.0)


def adapt_decoder(
    model: HARTForT2I,
    text_model: nn.Module,
    tokenizer,
    folder: Path,
    scale: float = 1.0,
    quiet: bool = False,
    device: str = "cpu",
) -> PhaseReport:
    """Train the decoder of the model's autoencoder in place; resumes from ``folder``.

    Args:
        model: finished transformer with its autoencoder, in eval mode.
        scale: factor of step count and number of pictures (tests use a small one).
    """
    folder.mkdir(parents=True, exist_ok=True)
    supply, phase = PICTURES, ADAPTATION
    if scale < 1:
        supply = replace(supply, chunk=max(BATCH, round(supply.chunk * scale)), chunks=1)
        phase = replace(phase, steps=max(2, round(phase.steps * scale)))
    wanted = tqdm(range(supply.chunks), desc="drawn maps", disable=True if quiet else None)
    chunks = [picture_maps(model, text_model, tokenizer, folder, supply, k, device) for k in wanted]
    maps = PictureMaps(*map(torch.cat, zip(*chunks, strict=True)))
    vae = model.vae_proxy[0]
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    hidden = [
        weight
        for name, weight in vae.decoder.named_parameters()
        if weight.ndim == 4 and not name.startswith("conv_in")
    ]
    rates = MUON_SHARE * phase.learning_rate, phase.learning_rate
    optimizers = muon_and_adamw(vae, hidden, *rates)
    report = run_phase(phase, vae, _loss(vae, maps, device), folder, quiet, optimizers)
    vae.requires_grad_(False)
    return report


def picture_maps(
    model: HARTForT2I, text_model, tokenizer, folder: Path, supply: Supply, k: int, device: str
) -> PictureMaps:
    """Chunk k of the pictures from its file in ``folder``, which is made first if need be."""
    file = folder / f"maps-{supply.seed}-{k:04d}.pt"
    if not file.is_file():
        rng = np.random.default_rng([supply.seed, k])
        counts = [
            min(PICTURES_AT_ONCE, supply.chunk - start)
            for start in range(0, supply.chunk, PICTURES_AT_ONCE)
        ]
        made = [_draw(model, text_model, tokenizer, rng, n, device) for n in counts]
        maps = PictureMaps(*map(torch.cat, zip(*made, strict=True)))
        with replacing(file) as beside:
            torch.save(maps._asdict(), beside)
    return PictureMaps(**torch.load(file, weights_only=True))


@torch.no_grad()
def _draw(model, text_model, tokenizer, rng: np.random.Generator, n: int, device: str):
    """``n`` fresh pictures and their maps."""
    vae = model.vae_proxy[0]
    batch = render_batch(rng, n)
    continuous = encode(vae, batch.images.to(device))
    *ids, rest = vae.quantize.f_to_idxBl_and_frest(continuous)
    residual = rest - vae.quantize.embedding(ids[-1])
    discrete = continuous - residual.transpose(1, 2).reshape(continuous.shape)
    _, mask, positions, context = encode_prompts(
        batch.captions, text_model, tokenizer, CONTEXT_TOKENS, DEMO_SYSTEM_PROMPT
    )
    seeds = rng.integers(2**62, size=n)
    drawn = model.generate_feature_map(
        n,
        context,
        cfg=float(rng.choice(CFG)),
        top_p=float(rng.choice(TOP_P)),
        more_smooth=bool(rng.integers(2)),
        context_position_ids=positions,
        context_mask=mask,
        generator=[torch.Generator(device).manual_seed(int(seed)) for seed in seeds],
        steps=TrueFirstStages(model, ids, int(rng.choice(TRUE_STAGES))),
    )
    pictures = ((batch.images + 1) * 127.5).round().to(torch.uint8)
    return PictureMaps(
        pictures, *(m.to("cpu", torch.float16) for m in (drawn, continuous, discrete))
    )


def _loss(vae, maps: PictureMaps, device: str):
    def loss(step: int, rng: np.random.Generator):
        rows = rng.integers(0, len(maps.pictures), BATCH)
        images = maps.pictures[rows].to(device).float() / 127.5 - 1
        kind = torch.from_numpy(rng.random(BATCH))[:, None, None, None]
        f_hat = torch.where(kind < CONTINUOUS, maps.continuous[rows], maps.discrete[rows])
        f_hat = torch.where(kind < DRAWN, maps.drawn[rows], f_hat).float().to(device)
        out = decode(vae, f_hat)
        return reconstruction_loss(out, images), {"l1": F.l1_loss(out, images).item()}

    return loss
