"""Endless labelled picture-caption pairs for training and measuring the demo model."""

from __future__ import annotations

import numpy as np
import torch

from hart.demo.data import DemoBatch
from recipes.demo.captions import caption
from recipes.demo.render import RESOLUTION, render
from recipes.demo.scene import ATTRIBUTES, Scene, sample_scene


def render_batch(
    rng_or_seed: np.random.Generator | int,
    n: int,
    held_out: bool = False,
    resolution: int = RESOLUTION,
) -> DemoBatch:
    """Draw ``n`` random scenes with captions and labels, on the CPU.

    An integer seed gives the same batch every time; a generator is advanced. ``held_out``
    draws only (concept, background, position) triples that training never sees.
    Raises ``ValueError`` when ``n`` is below 1 or ``resolution`` below 8.
    """
    if n < 1:
        raise ValueError(f"n is {n}, must be at least 1")
    rng = np.random.default_rng(rng_or_seed)
    scenes = [sample_scene(rng, held_out) for _ in range(n)]
    captions = [caption(scene, rng) for scene in scenes]
    return DemoBatch(render(scenes, rng, resolution), captions, scenes, scene_labels(scenes))


def scene_labels(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Class indices of the scenes, int64 (B,), by attribute name."""
    rows = [scene.labels() for scene in scenes]
    return {name: torch.tensor([row[name] for row in rows]) for name in ATTRIBUTES}
