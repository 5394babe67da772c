"""How much of a caption the demo draws: attributes read back from pictures of unseen captions.

Run ``python -m hart.demo.evaluate``. The captions name combinations of concept, background and
position that training never showed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hart.demo import DEMO_CHECKPOINT
from hart.demo.captions import caption
from hart.demo.reader import BUNDLED_READER, AttributeReader, accuracy, load_reader
from hart.demo.scene import sample_scene, scene_labels
from hart.pipeline import HARTPipeline
from hart.pipeline.options import DEFAULT_SEED, SamplingChoices

CAPTION_SEED = 2024
_SHEET_PICTURES, _SHEET_COLUMNS, _SHEET_SIDE = 64, 8, 144


def held_out_prompts(n: int, seed: int = CAPTION_SEED) -> tuple[list[str], dict[str, torch.Tensor]]:
    """``n`` captions of combinations kept out of training, with their labels (n,)."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, held_out=True) for _ in range(n)]
    return [caption(scene, rng) for scene in scenes], scene_labels(scenes)


def pictures_to_tensor(images: list) -> torch.Tensor:
    """PIL pictures of one size to float32 (n, 3, H, W) in [-1, 1]."""
    arrays = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


def read_pictures(
    images: list[Image.Image], reader: AttributeReader, batch_size: int = 64
) -> dict[str, torch.Tensor]:
    """Class indices (n,) by attribute, on the CPU, of what the reader sees in PIL pictures."""
    parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    read = [reader.read(pictures_to_tensor(part)) for part in parts]
    return {name: torch.cat([part[name] for part in read]).cpu() for name in read[0]}


def evaluate(
    pipeline: HARTPipeline,
    reader: AttributeReader,
    n: int,
    seed: int = DEFAULT_SEED,
    batch_size: int = 8,
    quiet: bool = False,
    **sampling: Any,
) -> tuple[dict[str, Any], list[Image.Image]]:
    """Draw ``n`` held-out captions and read the attributes back.

    Args:
        sampling: fields of :class:`SamplingChoices` that are not at their default.

    Returns:
        A report and the pictures. The report has the accuracy per attribute, the share of pictures
        with all attributes right, the number of images, seconds per image, and what caching saved.
    """
    prompts, labels = held_out_prompts(n)
    started = time.perf_counter()
    output = pipeline(prompts, seed=seed, batch_size=batch_size, quiet=quiet, **sampling)
    seconds = time.perf_counter() - started
    read = read_pictures(output.images, reader)
    right = torch.stack([values == labels[name] for name, values in read.items()])
    report = {
        "images": n,
        "accuracy": accuracy(read, labels),
        "all_right": right.all(dim=0).float().mean().item(),
        "seconds_per_image": seconds / n,
        "sampling": sampling,
        "cache_config": str(pipeline.model.cache_config),
        "saved_share": pipeline.model.get_cache_statistics()["saved_share"],
    }
    return report, output.images


def sheet(images: list[Image.Image]) -> Image.Image:
    """The first 64 pictures, reduced, eight in a row."""
    images, side = images[:_SHEET_PICTURES], _SHEET_SIDE
    page = Image.new("RGB", (_SHEET_COLUMNS * side, -(-len(images) // _SHEET_COLUMNS) * side))
    for i, image in enumerate(images):
        row, column = divmod(i, _SHEET_COLUMNS)
        page.paste(image.resize((side, side)), (column * side, row * side))
    return page


def main(argv: list[str] | None = None) -> int:
    """Command line; prints one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m hart.demo.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEMO_CHECKPOINT)
    parser.add_argument("--reader", type=Path, default=BUNDLED_READER, help="safetensors file")
    parser.add_argument("--n", type=int, default=400, help="number of held-out captions")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--cache-preset", default="no-cache")
    for name in ("cfg_scale", "top_p"):
        parser.add_argument(f"--{name}", type=float, default=getattr(SamplingChoices, name))
    parser.add_argument(
        "--more_smooth",
        action=argparse.BooleanOptionalAction,
        default=SamplingChoices.more_smooth,
    )
    parser.add_argument("--sheet", type=Path, help="picture file for the first 64 on one page")
    parser.add_argument("--device")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    reader = load_reader(args.reader)
    pipeline = HARTPipeline.from_pretrained(
        args.checkpoint, device=args.device, cache=args.cache_preset
    )
    sampling = {name: getattr(args, name) for name in ("cfg_scale", "top_p", "more_smooth")}
    report, images = evaluate(
        pipeline, reader, args.n, args.seed, args.batch_size, args.quiet, **sampling
    )
    if args.sheet is not None:
        sheet(images).save(args.sheet)
    json.dump(report, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
