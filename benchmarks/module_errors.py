"""Which module's reuse costs how much: one module at one stage at a time, on the demo.

Run ``python -m benchmarks.module_errors``. Every module of the last stages is reused alone, and its
pictures are compared with the uncached ones of the same seeds. Beside the error stands the
calibrated similarity that the threshold looks at; their rank correlation says how good a guide it
is.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tqdm import tqdm

from benchmarks.ranks import rank_correlation
from benchmarks.results_file import add_output, save_results
from hart.demo import DEMO_CHECKPOINT
from hart.demo.evaluate import held_out_prompts
from hart.evaluation.image_metrics import psnr_db, ssim
from hart.modules.networks.caching.config import SITES, CacheConfig
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline

SEED = 1


class SingleReuse:
    """Draws the same pictures with one module reused at one stage."""

    def __init__(self, pipeline: HARTPipeline, prompts: int, batch_size: int) -> None:
        self.pipeline, self.model, self.batch_size = pipeline, pipeline.transformer, batch_size
        self.prompts, _ = held_out_prompts(prompts)
        self.calibrated = pipeline.model.similarity
        self.model.set_cache_config("no-cache")
        self.uncached = self._draw()

    def measure(self, si: int, site: str, layer: int) -> dict[str, Any]:
        """Similarity and error of reusing one module at stage index ``si``."""
        model, lengths = self.model, self.model.schedule.lengths
        column = model.schedule.column(si)
        only = SimilarityTables.empty(model.depth, model.schedule)
        only.site(site)[layer][column] = 1.0
        model.similarity = only
        model.set_cache_config(CacheConfig([lengths[si]], [lengths[si - 1]]))
        images = self._draw()
        return {
            "stage": lengths[si],
            "site": site,
            "layer": layer,
            "similarity": self.calibrated.site(site)[layer][column],
            "psnr_db": psnr_db(images, self.uncached),
            "ssim": ssim(images, self.uncached),
        }

    def _draw(self) -> list:
        return self.pipeline(self.prompts, seed=SEED, batch_size=self.batch_size, quiet=True).images


def similarity_against_ssim(rows: list[dict[str, Any]]) -> float:
    """Spearman's, of similarity and SSIM."""
    return rank_correlation(*([row[name] for row in rows] for name in ("similarity", "ssim")))


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """One Markdown table: a module per row, a stage per pair of columns."""
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    titles = [f"{n}: similarity | SSIM" for n in stages]
    out = [f"| module | {' | '.join(titles)} |", "|---" * (1 + 2 * len(stages)) + "|"]
    for site, layer in dict.fromkeys((row["site"], row["layer"]) for row in rows):
        cells = [
            f"{row['similarity']:.2f} | {row['ssim']:.3f}"
            for row in rows
            if (row["site"], row["layer"]) == (site, layer)
        ]
        out.append(f"| {site} {layer} | {' | '.join(cells)} |")
    for site in SITES:
        of_site = [row for row in rows if row["site"] == site]
        correlation = similarity_against_ssim(of_site)
        out += ["", f"Rank correlation of similarity and SSIM, {site}: {correlation:.2f}"]
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.module_errors")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--stages", type=int, default=3, help="the last ones")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device")
    parser.add_argument("--quiet", action="store_true")
    add_output(parser, "module_errors")
    args = parser.parse_args(argv)
    pipeline = HARTPipeline.from_pretrained(DEMO_CHECKPOINT, device=args.device)
    single = SingleReuse(pipeline, args.prompts, args.batch_size)
    last = len(pipeline.model.patch_nums)
    work = [
        (si, site, layer)
        for si in range(last - args.stages, last)
        for site in SITES
        for layer in range(pipeline.model.depth)
    ]
    rows = [
        single.measure(*module)
        for module in tqdm(work, unit="module", disable=True if args.quiet else None)
    ]
    correlation = {s: similarity_against_ssim([r for r in rows if r["site"] == s]) for s in SITES}
    report = {"prompts": args.prompts, "rank_correlation": correlation, "modules": rows}
    save_results(args.output, pipeline, report)
    print("\n".join(lines(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
