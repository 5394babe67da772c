"""What pictures drawn with a plan are like, and how fast they are, beside those without caching."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median, stdev
from typing import Any

from PIL.Image import Image
from tqdm.auto import tqdm

from hart.evaluation.image_metrics import psnr_db, ssim
from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline.base import Pipeline
from hart.pipeline.caching import caching_for_a_while
from hart.pipeline.options import batches
from hart.pipeline.results import ImageResult


def verify(
    pipeline: Pipeline,
    config: CacheConfig,
    prompts: Any,
    *,
    quiet: bool = False,
    bar: Callable[..., Any] = tqdm,
    **sampling: Any,
) -> dict[str, Any]:
    """Draw every prompt without caching and with a plan, batch by batch in turn.

    Args:
        prompts: none of which the plan should have been found with.
        quiet: no progress bar.
        bar: makes what shows progress.
        sampling: fields of the pipeline's ``options_class``.

    Returns:
        ``images``; ``ssim`` (mean) and ``psnr_db`` (of the mean squared error, None for equal
        pictures) against the uncached ones; ``speedup`` of the whole picture, the median over
        batches, and ``seconds`` of it; ``saved_share`` of the blocks' multiply-adds. ``_spread``
        after ``ssim`` and ``speedup`` is the standard error of the mean.
    """
    options = {**sampling, "num_images_per_prompt": 1}
    requests = pipeline.requests(prompts, **options)
    pairs: list[tuple[ImageResult, ImageResult]] = []
    speeds: list[float] = []
    pieces = list(batches(requests, options.get("batch_size")))
    with caching_for_a_while(pipeline.transformer):
        pipeline.transformer.set_cache_config(config)
        # What is only done once; of several batches the median leaves it out.
        pipeline.draw_together(pieces[0][: None if len(pieces) < 3 else 1], **options)
        shown = bar(pieces, desc="verifying", unit="batch", disable=True if quiet else None)
        for turn, batch in enumerate(shown):
            results = {}
            for cached in (True, False) if turn % 2 else (False, True):
                pipeline.transformer.set_cache_config(config if cached else "no-cache")
                pipeline.transformer.reset_cache_statistics()
                results[cached] = pipeline.draw_together(batch, **options)
                if cached:
                    saved = pipeline.transformer.get_cache_statistics()["saved_share"]
            pairs += zip(results[True], results[False], strict=True)
            speeds.append(_seconds(results[False]) / _seconds(results[True]))
    own, whole = ([pair[i].image for pair in pairs] for i in (0, 1))
    own_s = fmean(pair[0].total_s for pair in pairs)
    figures = {
        "images": len(pairs),
        **picture_figures(own, whole),
        "saved_share": saved,
        "speedup": median(speeds),
        "seconds": own_s,
    }
    return {**figures, "speedup_spread": standard_error(speeds)}


def picture_figures(images: Sequence[Image], reference: Sequence[Image]) -> dict[str, Any]:
    """``ssim`` with its spread and ``psnr_db``."""
    scores = [ssim([a], [b]) for a, b in zip(images, reference, strict=True)]
    ratio = psnr_db(images, reference)
    return {
        "ssim": fmean(scores),
        "ssim_spread": standard_error(scores),
        "psnr_db": None if math.isinf(ratio) else ratio,
    }


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _seconds(results: Sequence[ImageResult]) -> float:
    return sum(result.total_s for result in results)
