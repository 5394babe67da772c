"""How far images moved from those without caching.

Every metric compares a list of 8-bit RGB pictures with the reference pictures of the same prompts
and seeds, and returns named numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from hart.evaluation.extras import import_extra

Images = Sequence[Image]
Metric = Callable[[Images, Images, Sequence[str]], dict[str, Any]]
"""Called with pictures, reference pictures and prompts, one of each per picture."""


def psnr_db(images: Images, reference: Images) -> float:
    """Peak signal-to-noise ratio in dB, from the mean squared error over all pixels of all images.

    ``10 log10(255^2 / MSE)``, infinite for equal pictures. The error is averaged before the
    logarithm, so that single unchanged pictures do not make the whole infinite.

    Raises:
        ValueError: no pictures, or not one reference of the same size for each.
    """
    errors = [np.mean((a - b) ** 2) for a, b in _pairs(images, reference)]
    mse = float(np.mean(errors))
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def ssim(images: Images, reference: Images) -> float:
    """Structural similarity (Wang et al. 2004), mean over the images; 1 for equal pictures.

    scikit-image's, with its default window of 7 pixels.

    Raises:
        MissingExtraError: scikit-image is not installed.
        ValueError: as :func:`psnr_db`, or pictures of less than 7 pixels.
    """
    measure = import_ssim()
    scores = [measure(a, b, channel_axis=2, data_range=255) for a, b in _pairs(images, reference)]
    return float(np.mean(scores))


def import_ssim() -> Callable[..., float]:
    """scikit-image's function, or MissingExtraError if that is not installed."""
    return import_extra("skimage.metrics", "SSIM").structural_similarity


def quality(
    images: Images, reference: Images, prompts: Sequence[str], metrics: Sequence[Metric] = ()
) -> dict[str, Any]:
    """All numbers that compare pictures with their references.

    Returns:
        ``psnr_db`` (None if all pictures are equal), ``ssim``, ``identical_images``, and what
        ``metrics`` add.
    """
    ratio = psnr_db(images, reference)
    numbers = {
        "psnr_db": None if math.isinf(ratio) else ratio,
        "ssim": ssim(images, reference),
        "identical_images": sum((a == b).all() for a, b in _pairs(images, reference)).item(),
    }
    for metric in metrics:
        numbers.update(metric(images, reference, prompts))
    return numbers


def _pairs(images: Images, reference: Images) -> list[tuple[np.ndarray, np.ndarray]]:
    """Float64 arrays (H, W, 3) in [0, 255]."""
    if not len(images) or len(images) != len(reference):
        raise ValueError(
            f"there are {len(images)} pictures and {len(reference)} references; "
            "expected equally many and at least one"
        )
    arrays = [[np.asarray(p.convert("RGB"), np.float64) for p in ps] for ps in (images, reference)]
    pairs = list(zip(*arrays, strict=True))
    for a, b in pairs:
        if a.shape != b.shape:
            raise ValueError(f"a picture has the shape {a.shape}, its reference {b.shape}")
    return pairs
