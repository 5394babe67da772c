"""Many images on one model under changing conditions: does anything pile up or go wrong?

Run ``python -m benchmarks.soak``. Presets, batch sizes, sampling options and prompts change from
batch to batch, every period has a batch that calibrates, and one generation in twenty is made to
fail half-way. Asked after every batch: is every module call of every image counted, do computed
and saved multiply-adds add up to those of the images without caching, and how much memory does
the process hold? At the end the first image is drawn again; it must be the same.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks.common import benchmark_parser, demo, memory_growth, save_growth
from hart.demo.evaluate import held_out_prompts
from hart.evaluation.memory import resident_bytes
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.pipeline import HARTPipeline
from hart.pipeline.options import ImageRequest

CONFIGURATIONS: tuple[str | CacheConfig, ...] = (
    *CACHE_PRESETS,
    CacheConfig([729, 1296], [441, 729], threshold=0.3, interpolation_mode="nearest"),
    CacheConfig([441, 1296], [256, 729], enable_mlp_cache=False, adaptive_threshold=True),
)
BATCH_SIZES = (1, 2, 4, 3)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"cfg_scale": 1.5, "more_smooth": False},
    {"top_p": 0.9},
    {"use_llm_system_prompt": False},
    {"cfg_scale": 7.0},
)
FAIL_EVERY = 20
WINDOW = len(BATCH_SIZES) * len(OPTIONS)
"""Batches after which sizes and options begin again together."""


@dataclass(frozen=True)
class Turn:
    """One batch: what is drawn, and how."""

    number: int
    requests: list[ImageRequest]
    configuration: str | CacheConfig
    options: dict[str, Any]
    calibrates: bool


class SoakError(AssertionError):
    """The model is not what it was, or does not count what it does."""


def turns(images: int) -> Iterator[Turn]:
    """Batches of ``images`` images altogether."""
    prompts, _ = held_out_prompts(40)
    done = number = 0
    while done < images:
        size = min(BATCH_SIZES[number % len(BATCH_SIZES)], images - done)
        requests = [
            ImageRequest(i, prompts[i % len(prompts)], 1000 + i) for i in range(done, done + size)
        ]
        configuration = CONFIGURATIONS[number % len(CONFIGURATIONS)]
        calibrates = number % len(CONFIGURATIONS) == 5
        yield Turn(number, requests, configuration, OPTIONS[number % len(OPTIONS)], calibrates)
        done, number = done + size, number + 1


class Soak:
    """Draws turns on one pipeline and checks its counters after each."""

    def __init__(self, pipeline: HARTPipeline) -> None:
        self.pipeline, self.model = pipeline, pipeline.transformer
        self.images = 0
        self.model.reset_cache_statistics()
        self.first = self._image()
        statistics = self.model.get_cache_statistics()["multiply_adds"]
        self.whole = statistics["computed"] + statistics["saved"]
        self.model.reset_cache_statistics()

    def draw(self, turn: Turn) -> None:
        self.model.set_cache_config(turn.configuration)
        if turn.number % FAIL_EVERY == FAIL_EVERY - 1:
            self._fail(turn)
        self.model.calibration = turn.calibrates
        measured = self.model.similarity.images
        try:
            self.pipeline.draw_together(turn.requests, **turn.options)
        finally:
            self.model.calibration = False
        self.images += len(turn.requests)
        added = len(turn.requests) if turn.calibrates else 0
        self._require("images calibrated", self.model.similarity.images, measured + added)
        self._check_counts()

    def finish(self) -> None:
        """The first image once more."""
        self._require("the first image drawn again", self._image(), self.first)

    def _image(self) -> bytes:
        self.model.set_cache_config("no-cache")
        (result,) = self.pipeline.draw_together([ImageRequest(0, "a fox", 7)])
        return result.image.tobytes()

    def _fail(self, turn: Turn) -> None:
        def stop(si: int, stages: int) -> None:
            if si == stages // 2:
                raise InterruptedError

        try:
            self.pipeline.draw_together(turn.requests, callback=stop, **turn.options)
        except InterruptedError:
            return
        raise SoakError("a generation that was stopped went on")

    def _check_counts(self) -> None:
        statistics = self.model.get_cache_statistics()
        self._require("images", statistics["images"], self.images)
        for length, sites in statistics["stages"].items():
            for site in SITES:
                per_image = sites[site]["computed"] + sites[site]["reused"]
                calls = round(per_image * self.images)
                expected = self.images * self.model.depth
                self._require(f"{site} calls at stage {length}", calls, expected)
        macs = statistics["multiply_adds"]
        self._require("multiply-adds", macs["computed"] + macs["saved"], self.images * self.whole)
        self._require("bytes held", statistics["feature_cache_bytes"]["now"], 0)

    @staticmethod
    def _require(what: str, found: object, expected: object) -> None:
        if found != expected:
            shown = "" if isinstance(found, bytes) else f": {found}, expected {expected}"
            raise SoakError(f"{what} is wrong{shown}")


def run(pipeline: HARTPipeline, images: int, quiet: bool) -> list[tuple[int, int]]:
    """Draw, check, and return (images so far, resident bytes) after every batch."""
    soak, memory = Soak(pipeline), []
    with tqdm(total=images, unit="image", disable=True if quiet else None) as bar:
        for turn in turns(images):
            soak.draw(turn)
            gc.collect()
            memory.append((soak.images, resident_bytes() or 0))
            bar.update(len(turn.requests))
    soak.finish()
    return memory


def growth(memory: list[tuple[int, int]], settled: int) -> dict[str, Any]:
    """Most resident memory in a window after ``settled`` images and in the last one."""
    later = [held for images, held in memory if images >= settled]
    return {**memory_growth(later[:WINDOW], later[-WINDOW:]), "resident_bytes_most": max(later)}


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser("soak")
    parser.add_argument("--images", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--settled", type=int, default=50, help="images before memory counts")
    args = parser.parse_args(argv)
    window = WINDOW * sum(BATCH_SIZES) // len(BATCH_SIZES)
    if not 0 <= args.settled <= args.images - 2 * window:
        parser.error(f"--images must be at least --settled + {2 * window}")
    pipeline = demo(args.device)
    memory = run(pipeline, args.images, args.quiet)
    said, found = "every count exact, first image unchanged", growth(memory, args.settled)
    save_growth(args, pipeline, "images", said, found, memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
