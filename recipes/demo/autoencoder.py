"""Training the demo's image autoencoder: continuous first, then its codebook, then the decoder.

1. ``crops``: encoder and decoder as a plain autoencoder with noisy latents, on small crops that
   show something (the network is convolutional, so a small crop costs little time).
   ``whole``: the same on whole pictures, whose statistics the group norms must know.
   The decoder sees most latents only as a coarser stage's grid can express them, so that the
   early stages come to carry the picture and the last one only its finest detail.
2. ``codebook``: codebook and phi convolutions of the hybrid quantizer on fixed latents, started
   by k-means on the residuals of every stage.
3. ``decoder``: the decoder alone, on discrete and on nearly continuous maps in turn, as the
   hybrid tokenizer of HART is trained, and on some that lack the last stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from hart.modules.models.autoencoder.configuration import HARTAutoEncoderConfig
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.autoencoder.quantize.maps import downsample, upsample
from hart.utils.files import replacing
from recipes.demo.data import render_batch
from recipes.demo.loop import (
    Phase,
    PhaseReport,
    image_layout,
    run_phase,
    training_autocast,
)
from recipes.demo.muon import muon_and_adamw
from recipes.demo.render import RESOLUTION

PATCH_NUMS = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36)
CROP, CANDIDATES = 96, 6
LATENT_NOISE = 0.15
# The grids that latents are coarsened to, and for which share of the pictures.
COARSE_SIDES, COARSE_SHARES = (12, 16, 21, 27, 36), (0.15, 0.2, 0.2, 0.15, 0.3)
DECODER_NOISE = 0.05
# Shares of continuous maps, of discrete ones, and of those without their last stage.
DECODED_SHARES = (0.4, 0.4, 0.2)
# Residuals beyond 0.6 cannot be expressed by the diffusion head; this share of them may be.
RESIDUAL_LIMIT, RESIDUAL_QUANTILE = 0.6, 0.998

CROPS = Phase("crops", steps=900, learning_rate=2e-3, seed=11)
WHOLE = Phase("whole", steps=60, learning_rate=8e-4, seed=14)
MUON_SHARE = 2.0  # its rate, as a multiple of AdamW's
CODEBOOK = Phase("codebook", steps=400, learning_rate=3e-3, seed=12)
DECODER = Phase("decoder", steps=300, learning_rate=8e-4, seed=13)
LATENT_IMAGES = 512
LATENTS_AT_ONCE = 16


def demo_autoencoder_config() -> HARTAutoEncoderConfig:
    """288-pixel pictures to 36x36 maps of 8 channels, 2048 codes, hybrid quantizer."""
    return HARTAutoEncoderConfig(
        vocab_size=2048,
        z_channels=8,
        ch=64,  # fewer would leave one channel per group and lose the colours of flat areas
        ch_mult=(1, 1, 1, 2),
        v_patch_nums=PATCH_NUMS,
        quantizer_type="var_hybrid",
        freeze_codebook_for_hybrid=False,
    )


def train_encoder(
    folder: Path, scale: float = 1.0, quiet: bool = False, device: str = "cpu"
) -> tuple[HARTAutoEncoder, dict[str, PhaseReport]]:
    """Encoder, codebook and a first decoder: all that tokens depend on.

    Goes on where ``folder`` left off. ``scale`` is a factor of all step counts (tests use a small
    one).
    """
    torch.manual_seed(CROPS.seed)
    vae = HARTAutoEncoder(demo_autoencoder_config()).to(device)
    finished = folder / "encoder-finished.pt"
    if finished.is_file():
        state = torch.load(finished, weights_only=True)
        vae.load_state_dict(state["module"])
        reports = {name: PhaseReport(**report) for name, report in state["reports"].items()}
        return vae.requires_grad_(False).eval(), reports
    vae.train()
    reports = {}
    vae.quantize.requires_grad_(False)
    for phase, images in ((CROPS, _crops), (WHOLE, _whole)):
        reports[phase.name] = run_phase(
            _scaled(phase, scale),
            vae,
            _pixel_loss(vae, images, device),
            folder,
            quiet,
            _autoencoder_optimizers(vae, phase),
        )
    if (folder / "latents.pt").is_file():
        latents = torch.load(folder / "latents.pt", weights_only=True).to(device)
    else:
        latents = _latents(vae, max(64, round(LATENT_IMAGES * scale)), folder, quiet, device)
    if not (folder / "codebook.pt").is_file():
        start_codebook(vae.quantize, latents)
    vae.requires_grad_(False)
    vae.quantize.requires_grad_(True)
    reports["codebook"] = run_phase(
        _scaled(CODEBOOK, scale), vae, _codebook_loss(vae.quantize, latents), folder, quiet
    )
    vae.requires_grad_(False)
    rescale_latents(vae, latents)
    plain = {name: vars(report) for name, report in reports.items()}
    with replacing(finished) as beside:
        torch.save({"module": vae.state_dict(), "reports": plain}, beside)
    return vae.eval(), reports


def train_decoder(
    vae: HARTAutoEncoder,
    folder: Path,
    scale: float = 1.0,
    quiet: bool = False,
    device: str = "cpu",
) -> PhaseReport:
    """Train the decoder of a finished encoder in place; tokens do not change by it."""
    vae.requires_grad_(False).train()
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    optimizers = _autoencoder_optimizers(vae, DECODER)
    loss = _decoder_loss(vae, device)
    report = run_phase(_scaled(DECODER, scale), vae, loss, folder, quiet, optimizers)
    vae.requires_grad_(False).eval()
    return report


def _scaled(phase: Phase, scale: float) -> Phase:
    return Phase(**{**vars(phase), "steps": max(2, round(phase.steps * scale))})


def _images(rng: np.random.Generator, n: int, device: str) -> torch.Tensor:
    images = render_batch(rng, n, resolution=RESOLUTION).images.to(device)
    return images.contiguous(memory_format=image_layout(device))


def encode(vae: HARTAutoEncoder, images: torch.Tensor) -> torch.Tensor:
    """float32 maps (B, Z, h, w); the convolutions run in bfloat16."""
    with training_autocast(images.device.type):
        return vae.quant_conv(vae.encoder(images)).float()


def _decode(vae: HARTAutoEncoder, f: torch.Tensor) -> torch.Tensor:
    """float32 pictures, not clamped."""
    with training_autocast(f.device.type):
        return vae.decoder(vae.post_quant_conv(f)).float()


def reconstruction_loss(
    out: torch.Tensor, images: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """L1 on pixels plus L1 on their differences along both axes, which keeps edges sharp.

    Args:
        weights: of the pixels, (B, 1, H, W) with mean 1.
    """
    if weights is not None:  # both terms are homogeneous in the error, up to the square
        out = images + weights * (out - images)
    loss = F.l1_loss(out, images) + 0.5 * F.mse_loss(out, images)
    for axis in (2, 3):
        loss = loss + 0.5 * F.l1_loss(out.diff(dim=axis), images.diff(dim=axis))
    return loss


def contrast_weights(images: torch.Tensor, radius: int = 6) -> torch.Tensor:
    """Weights of pixels (B, 1, H, W), mean 1 in every picture: half even, half where things are.

    Shapes and their textures cover a small part of most pictures.
    """
    mean = F.avg_pool2d(images, 2 * radius + 1, 1, radius, count_include_pad=False)
    away = (images - mean).abs().mean(dim=1, keepdim=True)
    near = F.avg_pool2d(away, 2 * radius + 1, 1, radius, count_include_pad=False)
    return 0.5 + 0.5 * near / near.mean(dim=(2, 3), keepdim=True).clamp_min(1e-6)


def _autoencoder_optimizers(vae: HARTAutoEncoder, phase: Phase) -> list[torch.optim.Optimizer]:
    """Muon for the trainable convolutions of encoder and decoder but the first ones, else AdamW."""
    named = [*vae.encoder.named_parameters(), *vae.decoder.named_parameters()]
    hidden = [
        p for name, p in named if p.requires_grad and p.ndim == 4 and not name.startswith("conv_in")
    ]
    return muon_and_adamw(vae, hidden, MUON_SHARE * phase.learning_rate, phase.learning_rate)


def _whole(rng: np.random.Generator, device: str) -> torch.Tensor:
    return _images(rng, 3, device)


def _crops(rng: np.random.Generator, device: str) -> torch.Tensor:
    """(8, 3, CROP, CROP): of six random crops of each picture the one with the most contrast."""
    images, crops = _images(rng, 8, device), []
    for image in images:
        corners = rng.integers(0, RESOLUTION - CROP + 1, (CANDIDATES, 2))
        candidates = [image[:, y : y + CROP, x : x + CROP] for y, x in corners]
        crops.append(max(candidates, key=lambda crop: crop.std().item()))
    return torch.stack(crops).contiguous(memory_format=image_layout(device))


def coarsened(f: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """Each map (1, Z, h, h) of f as a grid of its side can express it, resized as stages are.

    Sides count cells of a whole picture's map; a crop's map has proportionally fewer.
    """
    own, maps = f.shape[-1], []
    for i, side in enumerate(sides):
        cells = max(1, round(int(side) * own * 8 / RESOLUTION))
        maps.append(upsample(downsample(f[i : i + 1], (cells, cells)), (own, own)))
    return torch.cat(maps)


def _pixel_loss(vae: HARTAutoEncoder, draw_images, device: str):
    def loss(step: int, rng: np.random.Generator):
        images = draw_images(rng, device)
        f = encode(vae, images)
        std, mean = f.std(dim=(0, 2, 3)), f.mean(dim=(0, 2, 3))
        coarse = coarsened(f, rng.choice(COARSE_SIDES, len(f), p=COARSE_SHARES))
        out = _decode(vae, coarse + LATENT_NOISE * torch.randn_like(f))
        error = reconstruction_loss(out, images)
        unit_scale = 0.1 * (std - 1).square().mean() + 0.01 * mean.square().mean()
        return error + unit_scale, {"l1": F.l1_loss(out, images).item()}

    return loss


@torch.no_grad()
def _latents(vae, n: int, folder: Path, quiet: bool, device: str) -> torch.Tensor:
    """Continuous maps (n, Z, 36, 36) of fresh pictures, kept in the run folder."""
    rng = np.random.default_rng([CODEBOOK.seed, n])
    maps = [
        encode(vae, _images(rng, LATENTS_AT_ONCE, device))
        for _ in tqdm(
            range(0, n, LATENTS_AT_ONCE), desc="latents", disable=None if not quiet else True
        )
    ]
    latents = torch.cat(maps).contiguous()
    torch.save(latents.cpu(), folder / "latents.pt")
    return latents


@torch.no_grad()
def stage_residuals(quantizer: nn.Module, latents: torch.Tensor) -> list[torch.Tensor]:
    """What each stage has to express, (B * pn * pn, Z) per stage, given the stages before."""
    rest, vectors = latents.clone(), []
    ids = quantizer.f_to_idxBl_or_fhat(latents, to_fhat=False)
    f_hat = torch.zeros_like(latents)
    for si, side in enumerate(PATCH_NUMS):
        pooled = downsample(rest, (side, side))
        vectors.append(pooled.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]))
        maps = quantizer.embedding(ids[si]).transpose(1, 2)
        maps = maps.reshape(len(latents), -1, side, side)
        f_hat, _ = quantizer.get_next_autoregressive_input(si, len(PATCH_NUMS), f_hat, maps)
        rest = latents - f_hat
    return vectors


@torch.no_grad()
def start_codebook(quantizer: nn.Module, latents: torch.Tensor, rounds: int = 3) -> None:
    """Alternate between computing the stages' residuals and k-means on a sample of them."""
    vocab_size = quantizer.embedding.weight.shape[0]
    quantizer.embedding.weight.zero_()
    generator = torch.Generator().manual_seed(CODEBOOK.seed)
    for _ in range(rounds):
        sample = []
        for vectors in stage_residuals(quantizer, latents):
            pick = torch.randperm(len(vectors), generator=generator)[: 4 * vocab_size]
            sample.append(vectors[pick.to(vectors.device)])
        quantizer.embedding.weight.copy_(_k_means(torch.cat(sample), vocab_size, generator))


def _k_means(
    vectors: torch.Tensor, count: int, generator: torch.Generator, iterations: int = 8
) -> torch.Tensor:
    """Lloyd's algorithm from randomly chosen vectors; an empty cluster takes a random vector."""
    order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
    centres = vectors[order[:count]].clone()
    if len(centres) < count:
        centres = centres.repeat(-(-count // len(centres)), 1)[:count]
    for _ in range(iterations):
        nearest = torch.cdist(vectors, centres).argmin(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        counts = torch.bincount(nearest, minlength=count)[:, None]
        refill = vectors[torch.randint(len(vectors), (count,), generator=generator)]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), refill)
    return centres


def _codebook_loss(quantizer: nn.Module, latents: torch.Tensor):
    def loss(step: int, rng: np.random.Generator):
        f = latents[torch.from_numpy(rng.integers(0, len(latents), 16)).to(latents.device)]
        ids = quantizer.f_to_idxBl_or_fhat(f, to_fhat=False)
        maps = [_as_map(quantizer.embedding(i)) for i in ids]
        steps = quantizer.embed_to_fhat(maps, all_to_max_scale=True, last_one=False)
        error = sum(F.mse_loss(f_hat, f) for f_hat in steps) / len(steps)
        final = F.mse_loss(steps[-1], f)
        if step % 50 == 49:
            _revive_codes(quantizer, f, ids, rng)
        return error + final, {"final_mse": final.item()}

    return loss


def _as_map(values: torch.Tensor) -> torch.Tensor:
    side = round(values.shape[1] ** 0.5)
    return values.transpose(1, 2).reshape(len(values), -1, side, side)


@torch.no_grad()
def _revive_codes(quantizer, f: torch.Tensor, ids: list[torch.Tensor], rng) -> None:
    """Give codes that this batch never used the values of residuals that it had."""
    used = torch.bincount(torch.cat([i.flatten() for i in ids]), minlength=quantizer.vocab_size)
    unused = (used == 0).nonzero().flatten()
    vectors = torch.cat(stage_residuals(quantizer, f)[4:])
    take = torch.from_numpy(rng.integers(0, len(vectors), len(unused) // 4)).to(f.device)
    chosen = unused[torch.from_numpy(rng.permutation(len(unused))[: len(take)]).to(f.device)]
    quantizer.embedding.weight[chosen] = vectors[take]


@torch.no_grad()
def rescale_latents(vae: HARTAutoEncoder, latents: torch.Tensor) -> float:
    """Scale the latent space so that the residuals after the last stage fit the diffusion head.

    Everything between encoder and decoder is linear, so scaling the convolutions around it, the
    codebook and the biases of phi changes no picture. Returns the factor.
    """
    quantizer, sample = vae.quantize, latents[:256]
    *ids, rest = quantizer.f_to_idxBl_and_frest(sample)
    residual = rest - quantizer.embedding(ids[-1])
    factor = RESIDUAL_LIMIT / residual.abs().flatten().quantile(RESIDUAL_QUANTILE).item()
    vae.quant_conv.weight.mul_(factor)
    vae.quant_conv.bias.mul_(factor)
    vae.post_quant_conv.weight.div_(factor)
    quantizer.embedding.weight.mul_(factor)
    for module in quantizer.quant_resi.modules():
        if isinstance(module, nn.Conv2d):
            module.bias.mul_(factor)
    return factor


def _decoder_loss(vae: HARTAutoEncoder, device: str):
    quantizer = vae.quantize

    def loss(step: int, rng: np.random.Generator):
        images = _images(rng, 4, device)
        with torch.no_grad():
            f = encode(vae, images)
            *ids, rest = quantizer.f_to_idxBl_and_frest(f)
            # All of the map, its tokens without a residual, or not even those of the last stage:
            # what is drawn there is seldom quite right.
            missing = torch.stack([0 * rest, rest - quantizer.embedding(ids[-1]), rest])
            chosen = torch.from_numpy(rng.choice(3, len(images), p=DECODED_SHARES)).to(f.device)
            noise = DECODER_NOISE * f.std() * torch.randn_like(f)
            f_hat = f - _as_map(missing[chosen, range(len(images))]) + noise
        out = _decode(vae, f_hat)
        error = reconstruction_loss(out, images, contrast_weights(images))
        return error, {"l1": F.l1_loss(out, images).item()}

    return loss
