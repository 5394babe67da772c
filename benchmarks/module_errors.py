"""Which module's reuse costs how much: one module at one stage at a time, on the demo.

Run ``python -m benchmarks.module_errors``. Every module of the last stages is reused alone, and its
pictures are compared with the uncached ones of the same seeds. Beside the error stands the
calibrated similarity that the threshold looks at; their rank correlation says how good a guide it
is.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.common import benchmark_parser, demo, progress, rank_correlation, save_results
from hart.demo.evaluate import held_out_prompts
from hart.evaluation.comparison_report import table_lines
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
        column: Any = model.schedule.column(si)
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
    titles, cells = ["module"], dict[str, list[str]]()
    for row in rows:
        module = f"{row['site']} {row['layer']}"
        cells.setdefault(module, [module]).extend(
            (f"{row['similarity']:.2f}", f"{row['ssim']:.3f}")
        )
        if f"{row['stage']}: similarity" not in titles:
            titles += [f"{row['stage']}: similarity", "SSIM"]
    out = table_lines(titles, cells.values())
    for site in SITES:
        of_site = [row for row in rows if row["site"] == site]
        correlation = similarity_against_ssim(of_site)
        out += ["", f"Rank correlation of similarity and SSIM, {site}: {correlation:.2f}"]
    return out


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser("module_errors")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--stages", type=int, default=3, help="the last ones")
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args(argv)
    pipeline = demo(args.device)
    single = SingleReuse(pipeline, args.prompts, args.batch_size)
    last = len(pipeline.model.patch_nums)
    work = [
        (si, site, layer)
        for si in range(last - args.stages, last)
        for site in SITES
        for layer in range(pipeline.model.depth)
    ]
    rows = [single.measure(*module) for module in progress(work, "module", args.quiet)]
    correlation = {s: similarity_against_ssim([r for r in rows if r["site"] == s]) for s in SITES}
    report = {"prompts": args.prompts, "rank_correlation": correlation, "modules": rows}
    save_results(args.output, pipeline, report)
    print("\n".join(lines(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
