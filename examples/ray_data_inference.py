"""Draw a data set of prompts that is in an object store or on a cluster, with Ray Data.

    pip install "ray[data]"
    python examples/ray_data_inference.py PROMPTS OUTPUT --workers 2

PROMPTS is JSON lines with ``prompt`` and, if wanted, ``seed``, a file or a folder; OUTPUT is a
folder for Parquet files with the columns ``id``, ``prompt``, ``seed`` and ``png``. Both may be
``s3://...``, ``gs://...`` or a path that every machine sees. On a Ray cluster the workers are
spread over its machines; with ``--gpus 1`` each has a GPU of its own.

This is the form that Ray Data's documentation gives batch inference: a class that loads the model
once per worker, mapped over batches by a pool of actors. An image depends only on its prompt and
its seed, up to the rounding of matrix products in batches of other sizes; with an adaptive preset
(``ultra-fast``) also on its batch, for which it decides as a whole.
"""

from __future__ import annotations

import argparse
import io

import numpy as np
import ray


class Draw:
    """One worker: loads the checkpoint, then turns batches of prompts into PNG images."""

    def __init__(self, model_path: str | None, preset: str) -> None:
        from hart import HARTPipeline
        from hart.demo import DEMO_CHECKPOINT

        self.pipeline = HARTPipeline.from_pretrained(model_path or DEMO_CHECKPOINT, cache=preset)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        from hart.pipeline.options import ImageRequest

        rows = zip(batch["id"], batch["prompt"], batch["seed"], strict=True)
        requests = [ImageRequest(int(i), str(prompt), int(seed)) for i, prompt, seed in rows]
        results = self.pipeline.draw_together(requests)
        images = np.empty(len(results), dtype=object)
        images[:] = [png(result.image) for result in results]
        return {**{name: batch[name] for name in ("id", "prompt", "seed")}, "png": images}


def png(image) -> bytes:
    """The image as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def numbered(prompts: ray.data.Dataset, seed: int) -> ray.data.Dataset:
    """Give every row its place in the data set and, where it has none, the seed for it."""
    rows = prompts.take_all()  # prompts are small; images are not, and stay on the workers
    return ray.data.from_items(
        [
            {"id": i, "prompt": row["prompt"], "seed": _seed(row.get("seed"), seed + i)}
            for i, row in enumerate(rows)
        ]
    )


def _seed(given: float | None, default: int) -> int:
    return default if given is None or np.isnan(given) else int(given)


def cpus_of_each(workers: int) -> float:
    """What a worker may book, so that reading and writing find a free CPU and nothing waits."""
    cpus = ray.cluster_resources().get("CPU", 1)
    return min(1.0, (cpus - 1) / workers) if cpus > 1 else 0.5 / workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts")
    parser.add_argument("output")
    parser.add_argument("--model_path", help="default: the bundled demo checkpoint")
    parser.add_argument("--cache-preset", default="original")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of each worker")
    args = parser.parse_args()

    # Blocks as small as batches, or a worker would wait for another one's.
    prompts = numbered(ray.data.read_json(args.prompts, lines=True), args.seed)
    blocks = max(1, -(-prompts.count() // args.batch_size))
    drawn = prompts.repartition(blocks).map_batches(
        Draw,
        fn_constructor_args=(args.model_path, args.cache_preset),
        batch_size=args.batch_size,
        compute=ray.data.ActorPoolStrategy(size=args.workers),
        num_cpus=cpus_of_each(args.workers),
        num_gpus=args.gpus,
    )
    drawn.write_parquet(args.output)
    print(f"{blocks} batches drawn into {args.output}")


if __name__ == "__main__":
    main()
