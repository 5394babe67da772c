"""How much of a caption the demo draws: attributes read back from pictures of unseen captions.

Run ``python -m hart.demo.evaluate``. The captions name combinations of shape, colour and
background that training never showed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hart.demo import DEMO_CHECKPOINT
from hart.demo.captions import caption
from hart.demo.data import scene_labels
from hart.demo.reader import AttributeReader, load_reader
from hart.demo.scene import sample_scene
from hart.pipeline import HARTPipeline
from hart.pipeline.options import DEFAULT_SEED, SamplingChoices

CAPTION_SEED = 2024


def held_out_prompts(n: int, seed: int = CAPTION_SEED) -> tuple[list[str], dict[str, torch.Tensor]]:
    """``n`` captions of combinations kept out of training, with their labels (n,)."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, held_out=True) for _ in range(n)]
    return [caption(scene, rng) for scene in scenes], scene_labels(scenes)


def pictures_to_tensor(images: list) -> torch.Tensor:
    """PIL pictures of one size to float32 (n, 3, H, W) in [-1, 1]."""
    arrays = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def attribute_accuracy(
    images: list, labels: dict[str, torch.Tensor], reader: AttributeReader
) -> dict[str, float]:
    """Share of pictures in which the reader sees what the label says, per attribute."""
    read = reader.read(pictures_to_tensor(images))
    return {
        name: (read[name].cpu() == wanted).float().mean().item()
        for name, wanted in labels.items()
        if name in read
    }


def evaluate(
    pipeline: HARTPipeline,
    n: int,
    seed: int = DEFAULT_SEED,
    batch_size: int = 8,
    quiet: bool = False,
    **sampling,
) -> dict:
    """Draw ``n`` held-out captions and read the attributes back.

    Args:
        sampling: fields of :class:`SamplingChoices` that are not at their default.

    Returns:
        accuracy per attribute, the share with shape, colour and background all right, the number
        of images, seconds per image, and what caching saved.
    """
    prompts, labels = held_out_prompts(n)
    started = time.perf_counter()
    output = pipeline(prompts, seed=seed, batch_size=batch_size, quiet=quiet, **sampling)
    seconds = time.perf_counter() - started
    reader = load_reader()
    accuracy = attribute_accuracy(output.images, labels, reader)
    read = reader.read(pictures_to_tensor(output.images))
    main = [read[name].cpu() == labels[name] for name in ("shape", "colour", "background")]
    return {
        "images": n,
        "accuracy": accuracy,
        "shape_colour_background": torch.stack(main).all(dim=0).float().mean().item(),
        "seconds_per_image": seconds / n,
        "sampling": sampling,
        "cache_config": str(pipeline.model.cache_config),
        "saved_share": pipeline.model.get_cache_statistics()["saved_share"],
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; prints one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m hart.demo.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEMO_CHECKPOINT)
    parser.add_argument("--n", type=int, default=200, help="number of held-out captions")
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
    parser.add_argument("--device")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    pipeline = HARTPipeline.from_pretrained(
        args.checkpoint, device=args.device, cache=args.cache_preset
    )
    similarity = args.checkpoint / "llm" / "cache_similarity.json"
    if similarity.is_file():
        pipeline.model.load_similarity_data(similarity)
    sampling = {name: getattr(args, name) for name in ("cfg_scale", "top_p", "more_smooth")}
    result = evaluate(pipeline, args.n, args.seed, args.batch_size, args.quiet, **sampling)
    json.dump(result, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
