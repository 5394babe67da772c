"""What the demo's tokenizer alone loses: PSNR of held-out renders that it encodes and decodes.

``python -m recipes.demo.evaluate --checkpoint FOLDER``. How well the whole model draws, and not
only its tokenizer, is told by ``python -m hart.demo.evaluate``, which needs no renders.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from hart.demo import DEMO_CHECKPOINT
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from recipes.demo.data import render_batch

RENDER_SEED = 2025


@torch.no_grad()
def reconstruction_psnr(vae: HARTAutoEncoder, n: int) -> float:
    """Mean PSNR in dB of ``n`` held-out renders through encoder, tokens, residual and decoder."""
    values = []
    for image in render_batch(RENDER_SEED, n, held_out=True).images.split(4):
        out = vae(image, ret_usages=False)["out"].clamp(-1, 1)
        error = ((out - image) / 2).square().mean(dim=(1, 2, 3))
        values += (-10 * error.log10()).tolist()
    return float(np.mean(values))


def main(argv: list[str] | None = None) -> int:
    """Command line; prints one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m recipes.demo.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEMO_CHECKPOINT)
    parser.add_argument("--n", type=int, default=32, help="number of held-out renders")
    args = parser.parse_args(argv)
    vae = HARTAutoEncoder.from_tokenizer_folder(args.checkpoint / "tokenizer", torch.float32)
    report = {"renders": args.n, "reconstruction_psnr": reconstruction_psnr(vae, args.n)}
    json.dump(report, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
