"""Whether the adaptive threshold does what it is for, on calm and on busy pictures of the demo.

Run ``python -m benchmarks.adaptive_threshold``. Two questions: does it reuse less on busy pictures
than on calm ones, and, at equal mean reuse, are its pictures at least as close to the uncached
ones as those of a fixed threshold? A busy picture shows a large thing where the calm one, drawn
with the same seed, shows the same thing small. Every picture is drawn alone, because a batch shares
its threshold. Thresholds are swept; then the fixed rule is measured where it reuses as much as the
adaptive one did, to the next module, and its error is interpolated from there.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.common import benchmark_parser, demo, progress, rank_correlation, save_results
from hart.demo.captions import canonical_caption
from hart.demo.scene import Scene, sample_scene
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import preset_config
from hart.pipeline import HARTPipeline

GROUPS = ("calm", "busy")
SCENE_SEED, IMAGE_SEED = 5, 1000


def scenes(n: int, seed: int = SCENE_SEED) -> dict[str, list[Scene]]:
    """``n`` random scenes with the thing small, and the same scenes with it large."""
    rng = np.random.default_rng(seed)
    drawn = [sample_scene(rng) for _ in range(n)]
    sizes = zip(GROUPS, ("small", "large"), strict=True)
    return {group: [replace(scene, size=size) for scene in drawn] for group, size in sizes}


class Pictures:
    """Draws the same pictures, one at a time, with one configuration after the other."""

    def __init__(self, pipeline: HARTPipeline, n: int, seed: int, quiet: bool) -> None:
        self.pipeline, self.quiet = pipeline, quiet
        drawn = scenes(n, seed)
        self.prompts = {g: [canonical_caption(s) for s in found] for g, found in drawn.items()}
        self.uncached = self._draw(preset_config("no-cache", pipeline.model.patch_nums))[0]

    def contrast(self) -> dict[str, float]:
        """How busy each group's uncached pictures are: mean squared step to the next pixel."""
        return {g: _mean([_pixel_steps(image) for image in self.uncached[g]]) for g in GROUPS}

    def measure(self, config: CacheConfig) -> dict[str, Any]:
        """Mean reuse rate and mean squared error (8-bit levels) per group and over both."""
        images, reuse = self._draw(config)
        row: dict[str, Any] = {"threshold": config.threshold, "pictures": {"reuse": [], "mse": []}}
        for group in GROUPS:
            pairs = zip(images[group], self.uncached[group], strict=True)
            found = {"reuse": reuse[group], "mse": [np.mean((a - b) ** 2) for a, b in pairs]}
            row[group] = {name: _mean(values) for name, values in found.items()}
            for name, values in found.items():
                row["pictures"][name] += map(float, values)
        return row | {name: _mean(values) for name, values in row["pictures"].items()}

    def _draw(self, config: CacheConfig):
        self.pipeline.model.set_cache_config(config)
        images: dict[str, list[np.ndarray]] = {}
        reuse: dict[str, list[float]] = {}
        work = [(g, i, p) for g in GROUPS for i, p in enumerate(self.prompts[g])]
        for group, i, prompt in progress(work, "image", self.quiet):
            output = self.pipeline(prompt, seed=IMAGE_SEED + i, quiet=True)
            images.setdefault(group, []).append(np.asarray(output.images[0], np.float64))
            reuse.setdefault(group, []).append(_reuse_rate(output.statistics))
        return images, reuse


def _reuse_rate(statistics: dict[str, Any]) -> float:
    """Share of the calls that could have been reuse and were."""
    totals = statistics["totals"].values()
    reused = sum(site["reused"] for site in totals)
    eligible = reused + sum(site["computed"] - site["not_eligible"] for site in totals)
    return reused / eligible if eligible else 0.0


def _pixel_steps(image: np.ndarray) -> float:
    return sum(float(np.mean(np.diff(image, axis=axis) ** 2)) for axis in (0, 1))


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def at_equal_reuse(fixed: list[dict], adaptive: list[dict]) -> list[dict[str, float]]:
    """Both rules' error where their mean reuse is equal: the fixed one's is interpolated."""
    ordered = sorted(fixed, key=lambda row: row["reuse"])
    reuse, mse = [row["reuse"] for row in ordered], [row["mse"] for row in ordered]
    return [
        {
            "threshold": row["threshold"],
            "reuse": row["reuse"],
            "mse_adaptive": row["mse"],
            "mse_fixed": float(np.interp(row["reuse"], reuse, mse)),
        }
        for row in adaptive
        if reuse[0] < row["reuse"] < reuse[-1]
    ]


def reuse_against_error(report: dict[str, Any]) -> float:
    """Rank correlation of the adaptive rule's reuse in a picture and the fixed one's error there.

    Both are means over the thresholds. Negative if the rule reuses less where reuse costs more.
    """
    reuse = np.mean([row["pictures"]["reuse"] for row in report["adaptive"]], axis=0)
    error = np.mean([row["pictures"]["mse"] for row in report["fixed"]], axis=0)
    return rank_correlation(reuse, error)


def skip_similarities(pipeline: HARTPipeline, base: CacheConfig) -> list[float]:
    """The calibrated similarities that a threshold is compared with: of what may be reused."""
    model = pipeline.model
    columns: Any = [
        model.schedule.column(model.schedule.index_of(s)) for s in base.skip_stages or ()
    ]
    sites = (
        (model.cache_similarity_attn, base.compute_attn_layers),
        (model.cache_similarity_mlp, base.compute_mlp_layers),
    )
    return [
        row[column]
        for table, computed in sites
        for layer, row in enumerate(table)
        for column in columns
        if layer not in computed
    ]


def sweep_thresholds(similarities: list[float], n: int) -> list[float]:
    """``n`` thresholds at even steps through the similarities."""
    return np.quantile(similarities, np.linspace(0.08, 0.92, n)).clip(0, 1).tolist()


def matching_thresholds(similarities: list[float], reuse: float) -> list[float]:
    """Thresholds at which a fixed rule reuses that share of the modules, to the next one.

    Two, one module apart, on both sides of ``reuse``; fewer where there is nothing between.
    """
    ordered = sorted(similarities, reverse=True)
    below = int(reuse * len(ordered))
    counts = [n for n in (below, below + 1) if 0 < n < len(ordered)]
    return [(ordered[n - 1] + ordered[n]) / 2 for n in counts]


def lines(report: dict[str, Any]) -> list[str]:
    """The result as Markdown tables."""
    contrast = ", ".join(f"{g} {value:.0f}" for g, value in report["contrast"].items())
    out = [f"Mean squared step between pixels: {contrast}", ""]
    out += ["| rule | threshold | reuse, calm | reuse, busy | reuse | MSE |", "|---" * 6 + "|"]
    for rule in ("fixed", "adaptive", "matching"):
        for row in report[rule]:
            numbers = (row["calm"]["reuse"], row["busy"]["reuse"], row["reuse"])
            shares = " | ".join(f"{x:.1%}" for x in numbers)
            out.append(f"| {rule} | {row['threshold']:.3f} | {shares} | {row['mse']:.2f} |")
    out += ["", "| reuse | MSE, adaptive | MSE, fixed | adaptive / fixed |", "|---" * 4 + "|"]
    for row in report["equal_reuse"]:
        a, f = row["mse_adaptive"], row["mse_fixed"]
        out.append(f"| {row['reuse']:.1%} | {a:.2f} | {f:.2f} | {a / f:.2f} |")
    correlation = report["rank_correlation"]
    out += ["", f"Rank correlation of adaptive reuse and the fixed rule's error: {correlation:.2f}"]
    return out


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser("adaptive_threshold")
    parser.add_argument("--pictures", type=int, default=24, help="of each group")
    parser.add_argument("--scene_seed", type=int, default=SCENE_SEED, help="draws the scenes")
    parser.add_argument("--thresholds", type=int, default=7, help="of each rule")
    parser.add_argument("--preset", default="aggressive", help="whose stages may be skipped")
    args = parser.parse_args(argv)
    pipeline = demo(args.device)
    base = preset_config(args.preset, pipeline.model.patch_nums)
    pictures = Pictures(pipeline, args.pictures, args.scene_seed, args.quiet)
    report: dict[str, Any] = {
        "preset": args.preset,
        "pictures_per_group": args.pictures,
        "scene_seed": args.scene_seed,
        "contrast": pictures.contrast(),
    }

    def measure(thresholds: list[float], adaptive: bool) -> list[dict[str, Any]]:
        configs = [replace(base, threshold=t, adaptive_threshold=adaptive) for t in thresholds]
        return [pictures.measure(config) for config in configs]

    similarities = skip_similarities(pipeline, base)
    swept = sweep_thresholds(similarities, args.thresholds)
    report["fixed"], report["adaptive"] = (measure(swept, adaptive) for adaptive in (False, True))
    matching = {
        t for row in report["adaptive"] for t in matching_thresholds(similarities, row["reuse"])
    }
    report["matching"] = measure(sorted(matching), adaptive=False)
    report["equal_reuse"] = at_equal_reuse(report["matching"], report["adaptive"])
    report["rank_correlation"] = reuse_against_error(report)
    save_results(args.output, pipeline, report)
    print("\n".join(lines(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
