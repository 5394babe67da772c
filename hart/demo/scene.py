"""What a demo picture shows: one shape with a handful of named attributes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "diamond", "heart", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
SIZES = ("small", "medium", "large")
POSITIONS = ("centre", "top left", "top right", "bottom left", "bottom right")
TEXTURES = ("plain", "stripes", "dots", "checks")
NO_COLOUR = "none"

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "background": COLOURS,
    "size": SIZES,
    "position": POSITIONS,
    "texture": TEXTURES,
    "texture_colour": (NO_COLOUR, *COLOURS),
}
"""Attribute name -> its values; the index of a value is its class label."""

_HELD_OUT_PERCENT = 10


@dataclass(frozen=True)
class Scene:
    """One shape on a background; field names are the keys of :data:`ATTRIBUTES`.

    Raises ``ValueError`` for an unknown value, for a shape in the colour of its background, and
    for a texture colour that would not show (or that a plain shape does not have).
    """

    shape: str
    colour: str
    background: str
    size: str = "medium"
    position: str = "centre"
    texture: str = "plain"
    texture_colour: str = NO_COLOUR

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            value = getattr(self, name)
            if value not in values:
                raise ValueError(f"{name} is {value!r}, must be one of {', '.join(values)}")
        if self.colour == self.background:
            raise ValueError(f"background is {self.background!r}, must differ from the colour")
        if (self.texture == "plain") != (self.texture_colour == NO_COLOUR):
            raise ValueError(
                f"texture_colour is {self.texture_colour!r} with texture {self.texture!r}: "
                f"{NO_COLOUR!r} belongs to 'plain' and only to it"
            )
        if self.texture_colour in (self.colour, self.background):
            raise ValueError(
                f"texture_colour is {self.texture_colour!r}, "
                "must differ from the colour and the background"
            )

    def labels(self) -> dict[str, int]:
        """Class index of every attribute, by attribute name."""
        return {f.name: ATTRIBUTES[f.name].index(getattr(self, f.name)) for f in fields(self)}


def is_held_out(scene: Scene) -> bool:
    """Whether (shape, colour, background) belongs to the tenth of triples never trained on.

    The answer comes from SHA-256 of the names, so it is the same in every process and version.
    """
    key = f"{scene.shape}|{scene.colour}|{scene.background}"
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < _HELD_OUT_PERCENT


def sample_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """Draw a scene uniformly from the training triples, or from the held-out ones."""
    while True:
        scene = _draw(rng)
        if is_held_out(scene) == held_out:
            return scene


def _draw(rng: np.random.Generator) -> Scene:
    def pick(values: tuple[str, ...]) -> str:
        return values[int(rng.integers(len(values)))]

    colour = pick(COLOURS)
    background = pick(tuple(c for c in COLOURS if c != colour))
    texture = pick(TEXTURES)
    visible = tuple(c for c in COLOURS if c not in (colour, background))
    texture_colour = NO_COLOUR if texture == "plain" else pick(visible)
    return Scene(
        pick(SHAPES), colour, background, pick(SIZES), pick(POSITIONS), texture, texture_colour
    )
