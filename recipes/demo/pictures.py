"""The pictures of the training data: fetched by package name, kept in a folder, never committed.

``@lobehub/fluent-emoji-3d`` holds Microsoft's Fluent emoji (MIT), 256-pixel WebP with alpha.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from hart.demo.concepts import CONCEPTS

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
PICTURES = Path(__file__).resolve().parents[2] / "runs" / "pictures"
"""Where the pictures lie; ``runs/`` is ignored by git."""


def fetch_pictures(folder: Path = PICTURES) -> Path:
    """The folder of WebP files, fetched with ``npm pack`` where it is not there yet.

    Raises ``RuntimeError`` if npm is missing or fails.
    """
    assets = folder / "package" / "assets"
    if assets.is_dir():
        return assets
    if shutil.which("npm") is None:
        raise RuntimeError(f"the pictures are in the npm package {PACKAGE}; npm is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    packed = subprocess.run(
        ["npm", "pack", "--silent", PACKAGE], cwd=folder, capture_output=True, text=True
    )
    if packed.returncode:
        raise RuntimeError(f"npm pack {PACKAGE} failed: {packed.stderr.strip()}")
    archive = folder / packed.stdout.strip().splitlines()[-1]
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    return assets


@lru_cache(maxsize=1024)
def sprite(name: str, side: int) -> np.ndarray:
    """A concept's picture at ``side`` pixels: float32 (side, side, 4), colours times alpha.

    Raises ``KeyError`` for an unknown concept.
    """
    code = {concept.name: concept.code for concept in CONCEPTS}[name]
    with Image.open(fetch_pictures() / f"{code}.webp") as file:
        rgba = np.asarray(file.convert("RGBA"), dtype=np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    planes = [
        Image.fromarray(np.ascontiguousarray(rgba[..., k]), mode="F").resize(
            (side, side), Image.Resampling.LANCZOS
        )
        for k in range(4)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1).clip(0, 1)
