"""Pictures of scenes: a thing of the Fluent emoji set on a soft gradient."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from hart.demo.scene import Scene
from recipes.demo.pictures import sprite

RESOLUTION = 288

RGB: dict[str, tuple[int, int, int]] = {
    "red": (205, 84, 84),
    "orange": (238, 152, 84),
    "yellow": (243, 216, 104),
    "green": (112, 184, 116),
    "blue": (104, 158, 222),
    "purple": (146, 116, 206),
    "pink": (240, 164, 200),
    "grey": (164, 169, 176),
}
"""Middle of each background's gradient."""

SHARE = {"small": 0.36, "medium": 0.56, "large": 0.80}
"""Side of the thing's box, as a share of the picture's."""

MARGIN = 0.03  # of the picture, between a thing in a corner and the edge
CONTRAST = 0.1  # half of a gradient's range of brightness
LIGHT = -3 * np.pi / 4
"""Where every gradient is brightest, as an angle: at the upper left.

Random directions, ranges and tints made the transformer learn single pictures by heart (1,536
pictures, 1,412 steps): it drew colours and places right, things as blots.
"""


def render(scenes: list[Scene], resolution: int = RESOLUTION) -> torch.Tensor:
    """Draw scenes as RGB float32 (B, 3, H, W) in [-1, 1]; the same scene is the same picture."""
    pictures = np.stack([_draw(scene, resolution) for scene in scenes])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous() * 2 - 1


def _draw(scene: Scene, resolution: int) -> np.ndarray:
    picture = _gradient(scene.background, resolution).copy()
    side = round(SHARE[scene.size] * resolution)
    top, left = corner_of(scene, resolution)
    box = picture[top : top + side, left : left + side]
    thing = sprite(scene.concept, side)
    box *= 1 - thing[..., 3:]
    box += thing[..., :3]
    return picture.clip(0, 1)


def corner_of(scene: Scene, resolution: int) -> tuple[int, int]:
    """Top and left of the thing's box, in pixels."""
    free = resolution - round(SHARE[scene.size] * resolution)
    low = round(MARGIN * resolution)
    if scene.position == "centre":
        return free // 2, free // 2
    vertical, horizontal = scene.position.split()
    return (
        low if vertical == "top" else free - low,
        low if horizontal == "left" else free - low,
    )


@lru_cache(maxsize=64)
def _gradient(colour: str, resolution: int) -> np.ndarray:
    """(H, W, 3) float32: brightness falls from the upper left corner."""
    middle = np.array(RGB[colour], dtype=np.float32) / 255
    axis = np.linspace(-1, 1, resolution)
    along = np.cos(LIGHT) * axis[None, :] + np.sin(LIGHT) * axis[:, None]
    return (middle * (1 + CONTRAST * along[..., None] / np.sqrt(2))).astype(np.float32)
