"""Train the attribute reader on fresh renders: ``python -m recipes.demo.reader --out FILE``.

Half of each batch is softened and made noisy, as pictures from an autoencoder are, so that
the reader judges generated pictures by what they show. It trains on every attribute
combination, the held-out ones included: a measuring instrument must not favour either side.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hart.demo.reader import AttributeReader, accuracy, save_reader
from hart.demo.scene import ATTRIBUTES
from recipes.demo.data import DemoBatch, render_batch
from recipes.demo.loop import training_autocast
from recipes.demo.render import RESOLUTION

_BATCH = 32
_HELD_OUT_EVERY = 10  # the held-out combinations' natural share
_PEAK_LR = 4e-3
_WEIGHT_DECAY = 0.02
_CHECK_SEED = 2**31  # far from the training stream, whose seeds a user chooses small


def train_reader(
    out_path: str | Path,
    steps: int,
    seed: int,
    log: Callable[[str], None] | None = None,
) -> AttributeReader:
    """Train for ``steps`` batches of 32 pictures on the CPU and save to ``out_path``.

    AdamW with a one-cycle rate, convolutions in bfloat16. ``log`` receives a progress line
    every 100 steps. Returns the reader in evaluation mode. Raises ``ValueError`` when
    ``steps`` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, must be at least 1")
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = (
            AttributeReader(ATTRIBUTES, RESOLUTION).to(memory_format=torch.channels_last).train()
        )
    optimiser = torch.optim.AdamW(reader.parameters(), lr=_PEAK_LR, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _PEAK_LR, total_steps=steps + 1, pct_start=0.15
    )
    for step in range(steps):
        batch = render_batch(rng, _BATCH, held_out=step % _HELD_OUT_EVERY == 0)
        loss = _loss(reader, batch, rng)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if log and (step + 1) % 100 == 0:
            log(f"step {step + 1}/{steps} loss {loss.item():.4f}")
    save_reader(reader, out_path)
    return reader.eval()


def measure(
    reader: AttributeReader, n: int, held_out: bool, softened: bool = False
) -> dict[str, float]:
    """Accuracy by attribute on ``n`` fresh renders, the same ones at every call."""
    rng = np.random.default_rng(_CHECK_SEED + held_out)
    batch = render_batch(rng, n, held_out)
    parts = batch.images.split(_BATCH)
    read = [reader.read(_soften(part, rng) if softened else part) for part in parts]
    return accuracy({k: torch.cat([r[k] for r in read]) for k in read[0]}, batch.labels)


def _loss(reader: AttributeReader, batch: DemoBatch, rng: np.random.Generator) -> torch.Tensor:
    """Cross-entropy summed over the attributes."""
    half = len(batch.images) // 2
    images = torch.cat([batch.images[:half], _soften(batch.images[half:], rng)])
    images = images.contiguous(memory_format=torch.channels_last)
    with training_autocast("cpu"):
        logits = reader(images)
    losses = [F.cross_entropy(logits[name].float(), batch.labels[name]) for name in logits]
    return torch.stack(losses).sum()


def _soften(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur, or shrink and enlarge, then shift the colours and add noise; range stays [-1, 1]."""
    if rng.random() < 0.5:
        images = _blur(images, sigma=rng.uniform(0.3, 1.3))
    else:
        small = int(images.shape[-1] * rng.uniform(0.55, 1.0))
        shrunk = F.interpolate(images, (small, small), mode="bilinear", antialias=True)
        images = F.interpolate(shrunk, images.shape[-2:], mode="bicubic")
    shift = rng.uniform(-0.06, 0.06, (len(images), 3, 1, 1)).astype(np.float32)
    noise = rng.standard_normal(images.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.08))
    return (images + torch.from_numpy(shift) + torch.from_numpy(noise)).clamp(-1.0, 1.0)


def _blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Separable Gaussian blur, ``sigma`` in pixels."""
    way = torch.arange(-3.0, 4.0)
    kernel = torch.exp(-0.5 * (way / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    images = F.conv2d(F.pad(images, (3, 3, 0, 0), mode="replicate"), kernel, groups=3)
    images = F.pad(images, (0, 0, 3, 3), mode="replicate")
    return F.conv2d(images, kernel.transpose(2, 3), groups=3)


def main(argv: list[str] | None = None) -> None:
    """Train, then print one JSON line with the accuracies measured on fresh renders."""
    parser = argparse.ArgumentParser(description="Train the demo's attribute reader.")
    parser.add_argument("--out", required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=2000, help="batches of 32 pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", type=int, default=1024, help="fresh pictures per measurement")
    arguments = parser.parse_args(argv)
    start = time.perf_counter()
    reader = train_reader(arguments.out, arguments.steps, arguments.seed, log=print)
    report = {
        "steps": arguments.steps,
        "pictures": arguments.check,
        "train_s": round(time.perf_counter() - start, 1),
        "trained_triples": measure(reader, arguments.check, held_out=False),
        "held_out_triples": measure(reader, arguments.check, held_out=True),
        "softened": measure(reader, arguments.check, held_out=False, softened=True),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
