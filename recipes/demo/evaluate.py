"""How much of a caption a trained demo draws, and what its tokenizer alone loses.

``python -m recipes.demo.evaluate --checkpoint FOLDER --reader FILE`` draws captions of combinations
that training never showed, reads the attributes back, and encodes and decodes fresh renders.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hart.demo.evaluate import attribute_accuracy
from hart.demo.reader import load_reader
from hart.pipeline import HARTPipeline
from recipes.demo.captions import caption
from recipes.demo.data import render_batch, scene_labels
from recipes.demo.scene import sample_scene

CAPTION_SEED, RENDER_SEED = 2024, 2025


def held_out_prompts(n: int) -> tuple[list[str], dict[str, torch.Tensor]]:
    """``n`` captions of combinations kept out of training, with their labels (n,)."""
    rng = np.random.default_rng(CAPTION_SEED)
    scenes = [sample_scene(rng, held_out=True) for _ in range(n)]
    return [caption(scene, rng) for scene in scenes], scene_labels(scenes)


@torch.no_grad()
def reconstruction_psnr(vae, n: int) -> float:
    """Mean PSNR in dB of ``n`` held-out renders through encoder, tokens, residual and decoder."""
    values = []
    for image in render_batch(RENDER_SEED, n, held_out=True).images.split(4):
        out = vae(image, ret_usages=False)["out"].clamp(-1, 1)
        error = ((out - image) / 2).square().mean(dim=(1, 2, 3))
        values += (-10 * error.log10()).tolist()
    return float(np.mean(values))


def sheet(images: list[Image.Image], columns: int = 8, side: int = 144) -> Image.Image:
    """Pictures row by row on one sheet, each ``side`` pixels wide."""
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * side, rows * side))
    for i, image in enumerate(images):
        page.paste(image.resize((side, side)), (i % columns * side, i // columns * side))
    return page


def main(argv: list[str] | None = None) -> int:
    """Command line; prints one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m recipes.demo.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--reader", type=Path, required=True, help="safetensors file")
    parser.add_argument("--n", type=int, default=400, help="number of held-out captions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--cache-preset", default="no-cache")
    parser.add_argument("--cfg_scale", type=float, default=4.5)
    parser.add_argument("--sheet", type=Path, help="PNG of the first 64 pictures")
    args = parser.parse_args(argv)
    pipeline = HARTPipeline.from_pretrained(args.checkpoint, cache=args.cache_preset)
    prompts, labels = held_out_prompts(args.n)
    output = pipeline(prompts, seed=args.seed, batch_size=args.batch_size, cfg_scale=args.cfg_scale)
    if args.sheet:
        sheet(output.images[:64]).save(args.sheet)
    result = {
        "images": args.n,
        "accuracy": attribute_accuracy(output.images, labels, load_reader(args.reader)),
        "reconstruction_psnr": reconstruction_psnr(pipeline.model.vae_quant_proxy[0], 32),
    }
    json.dump(result, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
