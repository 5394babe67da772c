"""What the cache statistics cost: the same images with and without them, in turns.

Run ``python -m benchmarks.statistics_cost``. The ratio is that of neighbouring runs, whose order
alternates, so that a machine that slows down does not count against either.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from benchmarks.common import benchmark_parser, demo, progress, save_results
from hart.demo.evaluate import held_out_prompts
from hart.engine import Engine
from hart.pipeline import HARTPipeline
from hart.pipeline.text import encode_unique


class Generation:
    """Draws one image's feature map: the part of the work that the statistics look at."""

    def __init__(self, pipeline: HARTPipeline) -> None:
        self.pipeline = pipeline
        (prompt,), _ = held_out_prompts(1)
        self.features, self.positions, self.mask = encode_unique(
            [prompt],
            pipeline.text_model,
            pipeline.text_tokenizer,
            pipeline.model.context_token,
            pipeline.system_prompt,
        )

    def seconds(self, with_statistics: bool) -> float:
        model = self.pipeline.transformer
        model.collect_cache_statistics = with_statistics
        self._wait()
        started = time.perf_counter()
        model.generate_feature_map(
            1,
            self.features,
            cfg=4.5,
            context_position_ids=self.positions,
            context_mask=self.mask,
            generator=torch.Generator(device=self.pipeline.device).manual_seed(1),
            steps=Engine(model),
        )
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.pipeline.device.type == "cuda":
            torch.cuda.synchronize(self.pipeline.device)


def measure(generation: Generation, pairs: int, quiet: bool) -> np.ndarray:
    """(pairs,) seconds with statistics over seconds without."""
    for with_statistics in (True, False):  # warm up
        generation.seconds(with_statistics)
    ratios = []
    for pair in progress(range(pairs), "pair", quiet):
        order = (True, False) if pair % 2 else (False, True)
        seconds = {on: generation.seconds(on) for on in order}
        ratios.append(seconds[True] / seconds[False])
    return np.array(ratios)


def confidence(ratios: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    rows = np.random.default_rng(0).choice(ratios, (draws, len(ratios)))
    low, high = np.percentile(np.median(rows, axis=1), [2.5, 97.5])
    return float(low), float(high)


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser("statistics_cost")
    parser.add_argument("--pairs", type=int, default=150, help="default: %(default)s")
    parser.add_argument("--presets", nargs="+", default=["no-cache", "original", "ultra-fast"])
    args = parser.parse_args(argv)
    pipeline = demo(args.device)
    generation = Generation(pipeline)
    results = {}
    for preset in args.presets:
        pipeline.model.set_cache_config(preset)
        ratios = measure(generation, args.pairs, args.quiet)
        low, high = confidence(ratios)
        median = float(np.median(ratios))
        results[preset] = {"ratio": median, "confidence_95": [low, high]}
        print(f"{preset}: {median - 1:+.2%} ({low - 1:+.2%} to {high - 1:+.2%})")
    save_results(args.output, pipeline, {"pairs": args.pairs, "with_over_without": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
