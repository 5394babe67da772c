"""Endless labelled picture-caption pairs for training and measuring the demo model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hart.demo.captions import caption
from hart.demo.scene import Scene, sample_scene, scene_labels
from recipes.demo.render import RESOLUTION, render


@dataclass(frozen=True)
class DemoBatch:
    """Pictures with what is known about them; every field has one entry per picture.

    ``images`` is RGB float32 (B, 3, H, W) in [-1, 1]; ``labels`` maps each attribute of
    :data:`hart.demo.scene.ATTRIBUTES` to class indices, int64 (B,).
    """

    images: torch.Tensor
    captions: list[str]
    scenes: list[Scene]
    labels: dict[str, torch.Tensor]


def render_batch(
    rng_or_seed: np.random.Generator | int,
    n: int,
    held_out: bool = False,
    resolution: int = RESOLUTION,
) -> DemoBatch:
    """Draw ``n`` random scenes with captions and labels, on the CPU.

    An integer seed gives the same batch every time; a generator is advanced. ``held_out``
    draws only combinations of concept, background and position that training never sees. Raises
    ``ValueError`` when ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}, must be at least 1")
    rng = np.random.default_rng(rng_or_seed)
    scenes = [sample_scene(rng, held_out) for _ in range(n)]
    captions = [caption(scene, rng) for scene in scenes]
    return DemoBatch(render(scenes, resolution), captions, scenes, scene_labels(scenes))
