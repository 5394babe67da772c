"""Image tensors to arrays, PIL images and files."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from hart.utils.files import replacing, write_text
from hart.utils.text_files import split_lines

GRID_COLUMNS = 12
_LONG_TEXT = 400  # is worth compressing


def to_uint8(images: Tensor) -> np.ndarray:
    """8-bit images, cut (not rounded) to whole levels, as HART's scripts do.

    Args:
        images: (B, 3, H, W) in [0, 1], any float dtype; scaled in that dtype. Values outside
            are clamped. NaN becomes 0, with a warning.

    Returns:
        uint8 array of shape (B, H, W, 3).

    Raises:
        TypeError: if the images are not floating-point.
        ValueError: if the shape is not (B, 3, H, W).
    """
    _check_images(images)
    levels = images.detach() * 255
    if levels.isnan().any():
        warnings.warn("the images contain NaN, shown as black", stacklevel=2)
        levels = levels.nan_to_num(0.0)
    return levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def to_pil(images: Tensor) -> list[Image.Image]:
    """One RGB image per row of ``images``; see :func:`to_uint8`."""
    return [Image.fromarray(np.ascontiguousarray(array)) for array in to_uint8(images)]


OUTPUT_TYPES = ("pil", "np", "pt")
"""What :func:`in_form` gives: PIL images, numpy arrays or tensors."""


def in_form(images: Tensor, output_type: str) -> list[Any]:
    """Images (B, 3, H, W) in [0, 1] one by one, as ``diffusers`` names the forms.

    ``"pil"``: RGB images, see :func:`to_pil`. ``"np"``: float32 arrays (H, W, 3). ``"pt"``: tensors
    (3, H, W) on the same device. The last two are clamped to [0, 1].
    """
    if output_type == "pil":
        return to_pil(images)
    images = images.detach().clamp(0, 1)
    if output_type == "np":
        return list(images.permute(0, 2, 3, 1).float().cpu().numpy())
    return list(images)


def make_grid(images: Tensor, columns: int = GRID_COLUMNS, padding: int = 2) -> Tensor:
    """Tile images row by row on black.

    Args:
        images: (B, 3, H, W), B >= 1.
        columns: Images per row; fewer images make a narrower grid.
        padding: Black pixels around every image.

    Returns:
        (3, rows * (H + padding) + padding, columns * (W + padding) + padding), a new tensor.

    Raises:
        TypeError: if the images are not floating-point.
        ValueError: if the shape is not (B, 3, H, W), there is no image, ``columns`` is not
            positive or ``padding`` is negative.
    """
    _check_images(images)
    if columns < 1 or padding < 0 or not len(images):
        raise ValueError(
            f"a grid needs images, columns >= 1 and padding >= 0, got {len(images)} images, "
            f"columns {columns} and padding {padding}"
        )
    count, channels, height, width = images.shape
    columns = min(columns, count)
    step_y, step_x = height + padding, width + padding
    rows = math.ceil(count / columns)
    grid = images.new_zeros(channels, rows * step_y + padding, columns * step_x + padding)
    for index, image in enumerate(images):
        top = (index // columns) * step_y + padding
        left = (index % columns) * step_x + padding
        grid[:, top : top + height, left : left + width] = image
    return grid


def save_images(
    images: Tensor,
    folder: str | os.PathLike[str],
    store_separately: bool = False,
    prompts: Sequence[str] | None = None,
) -> list[Path]:
    """Write images as PNG files, and their prompts as ``prompt.txt``.

    Args:
        images: (B, 3, H, W) in [0, 1].
        folder: Where to write; created if needed.
        store_separately: Write ``000000.png``, ``000001.png``, ... also for several images.
            Otherwise several images become one grid, ``sample_images.png``, scaled in float16.
        prompts: One line each in ``prompt.txt``; line breaks inside a prompt become spaces.

    Returns:
        The image files, in order.

    Raises:
        TypeError: if the images are not floating-point.
        ValueError: if the shape is not (B, 3, H, W) or there is no image.
    """
    _check_images(images)
    if not len(images):
        raise ValueError("there are no images to save")
    folder = Path(folder)
    if store_separately or len(images) == 1:
        pictures = to_pil(images)
        paths = [folder / f"{index:06d}.png" for index in range(len(pictures))]
    else:
        pictures = to_pil(make_grid(images).to(torch.float16)[None])
        paths = [folder / "sample_images.png"]
    for picture, path in zip(pictures, paths, strict=True):
        save_png(picture, path)
    if prompts is not None:
        text = "".join(" ".join(split_lines(prompt)) + "\n" for prompt in prompts)
        write_text(folder / "prompt.txt", text)
    return paths


def save_png(
    image: Image.Image,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    durable: bool = False,
) -> Path:
    """Write a PNG file with text chunks, as ``replacing`` writes; returns the path.

    Args:
        metadata: Keyword (1 to 79 printable Latin-1 characters) to text.
        durable: see ``replacing``.
    """
    path = Path(path)
    with replacing(path, durable) as beside:
        image.save(beside, format="PNG", pnginfo=_png_info(metadata))
    return path


def png_bytes(image: Image.Image, metadata: Mapping[str, str] | None = None) -> bytes:
    """What :func:`save_png` would write."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=_png_info(metadata))
    return buffer.getvalue()


def _png_info(metadata: Mapping[str, str] | None) -> PngInfo:
    info = PngInfo()
    for keyword, text in (metadata or {}).items():
        info.add_text(keyword, text, zip=len(text) > _LONG_TEXT)
    return info


def png_texts(picture: str | os.PathLike[str] | Image.Image) -> dict[str, str]:
    """The text chunks of a PNG file, or of an image that was opened from one.

    Raises:
        OSError: the file cannot be read or is no picture.
        ValueError: it is no PNG.
    """
    if not isinstance(picture, Image.Image):
        with Image.open(picture) as opened:
            opened.load()  # texts may stand behind the picture
            return png_texts(opened)
    if not hasattr(picture, "text"):
        raise ValueError("not a PNG picture: it has no texts that say how it was drawn")
    return {str(keyword): str(text) for keyword, text in picture.text.items()}


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor, got {kind}")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (B, 3, H, W), got {tuple(images.shape)}")
