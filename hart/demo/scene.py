"""What a demo picture shows: one thing on a background, with a handful of named attributes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from hart.demo.concepts import CONCEPTS

BACKGROUNDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "grey")
SIZES = ("small", "medium", "large")
POSITIONS = ("centre", "top left", "top right", "bottom left", "bottom right")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "concept": tuple(concept.name for concept in CONCEPTS),
    "background": BACKGROUNDS,
    "size": SIZES,
    "position": POSITIONS,
}
"""Attribute name -> its values; the index of a value is its class label."""

_HELD_OUT_PERCENT = 10


@dataclass(frozen=True)
class Scene:
    """One thing on a background; field names are the keys of :data:`ATTRIBUTES`.

    Raises ``ValueError`` for an unknown value.
    """

    concept: str
    background: str
    size: str = "medium"
    position: str = "centre"

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            value = getattr(self, name)
            if value not in values:
                raise ValueError(f"{name} is {value!r}, must be one of {', '.join(values)}")

    def labels(self) -> dict[str, int]:
        """Class index of every attribute, by attribute name."""
        return {f.name: ATTRIBUTES[f.name].index(getattr(self, f.name)) for f in fields(self)}


def scene_labels(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """Class indices of the scenes, int64 (B,), by attribute name."""
    rows = [scene.labels() for scene in scenes]
    return {name: torch.tensor([row[name] for row in rows]) for name in ATTRIBUTES}


def is_held_out(scene: Scene) -> bool:
    """Whether (concept, background, position) belongs to the tenth never trained on.

    The answer comes from SHA-256 of the names, so it is the same in every process and version.
    """
    key = f"{scene.concept}|{scene.background}|{scene.position}"
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < _HELD_OUT_PERCENT


def sample_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """Draw a scene uniformly from the training combinations, or from the held-out ones."""
    while True:
        picked = [values[int(rng.integers(len(values)))] for values in ATTRIBUTES.values()]
        scene = Scene(*picked)
        if is_held_out(scene) == held_out:
            return scene
