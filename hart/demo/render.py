"""Drawing scenes: signed distances on a pixel grid, blended with antialiasing.

Lengths are in units of a picture 128 wide, whatever the resolution. A signed distance is
negative inside the shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from hart.demo.scene import NO_COLOUR, Scene

WIDTH = 128.0
RADIUS = {"small": 23.0, "medium": 30.0, "large": 38.0}
RGB = {
    "red": (0.84, 0.10, 0.13),
    "green": (0.12, 0.60, 0.22),
    "blue": (0.12, 0.30, 0.84),
    "yellow": (0.97, 0.86, 0.14),
    "orange": (0.97, 0.52, 0.07),
    "purple": (0.58, 0.18, 0.64),
    "white": (0.96, 0.96, 0.96),
    "black": (0.06, 0.06, 0.06),
    NO_COLOUR: (0.0, 0.0, 0.0),
}
_DIRECTION = {
    "centre": (0, 0),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
_CORNER_OFFSET = 26.0
_EDGE_MARGIN = 8.0
_RIM = 4.0
_CHUNK = 16  # pictures whose intermediate maps still fit the processor's cache


def render(
    scenes: Sequence[Scene], rng: np.random.Generator, resolution: int = 128
) -> torch.Tensor:
    """Draw scenes with small random variations that keep every attribute's name true.

    Returns RGB, float32, (B, 3, resolution, resolution), in [-1, 1]. All randomness comes from
    ``rng``. Raises ``ValueError`` when ``resolution`` is below 8.
    """
    if resolution < 8:
        raise ValueError(f"resolution is {resolution}, must be at least 8")
    chunks = [scenes[i : i + _CHUNK] for i in range(0, len(scenes), _CHUNK)]
    images = [_render_chunk(chunk, rng, resolution) for chunk in chunks]
    return torch.cat(images) if images else torch.empty(0, 3, resolution, resolution)


def _render_chunk(
    scenes: Sequence[Scene], rng: np.random.Generator, resolution: int
) -> torch.Tensor:
    pixel = WIDTH / resolution
    axis = (torch.arange(resolution, dtype=torch.float32) + 0.5) * pixel - WIDTH / 2
    radius, x, y = _local_coordinates(scenes, rng, axis)
    distance = _shape_distance(scenes, radius, x, y)
    shape_mask = _coverage(distance, pixel)
    # The rim stays in the shape's own colour: it tells which of the two colours is which.
    texture_mask = _texture_mask(scenes, x, y, pixel) * _coverage(distance + _RIM, pixel)

    image = _background(scenes, rng, axis)
    shade = 1.0 - 0.06 * (y / radius)[:, None]
    ink = _jittered_rgb([s.colour for s in scenes], rng)[..., None, None] * shade
    second = _jittered_rgb([s.texture_colour for s in scenes], rng)[..., None, None]
    ink = torch.lerp(ink, second.expand_as(ink), texture_mask[:, None].expand_as(ink))
    image = torch.lerp(image, ink, shape_mask[:, None].expand_as(ink))
    image += _noise(len(scenes), rng, resolution)
    return image.clamp_(0.0, 1.0).mul_(2.0).sub_(1.0)


def _uniform(rng: np.random.Generator, limit: float, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(-limit, limit, shape).astype(np.float32))


def _local_coordinates(
    scenes: Sequence[Scene], rng: np.random.Generator, axis: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Radius (B, 1, 1) and the shape's own rotated coordinates x, y (B, H, W)."""
    count = len(scenes)
    nominal = torch.tensor([RADIUS[s.size] for s in scenes])
    offset = (WIDTH / 2 - _EDGE_MARGIN - nominal).clamp(max=_CORNER_OFFSET)
    direction = torch.tensor([_DIRECTION[s.position] for s in scenes], dtype=torch.float32)
    centre = direction * offset[:, None] + _uniform(rng, 1.5, count, 2)
    radius = nominal * (1 + _uniform(rng, 0.04, count))
    angle = _uniform(rng, math.radians(7), count)[:, None, None]
    dx = (axis - centre[:, :1])[:, None, :]
    dy = (axis - centre[:, 1:])[:, :, None]
    cos, sin = angle.cos(), angle.sin()
    return radius[:, None, None], cos * dx + sin * dy, cos * dy - sin * dx


def _shape_distance(
    scenes: Sequence[Scene], radius: torch.Tensor, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    distance = torch.empty_like(x)
    for shape in dict.fromkeys(s.shape for s in scenes):
        rows = torch.tensor([i for i, s in enumerate(scenes) if s.shape == shape])
        scale = radius[rows]
        distance[rows] = _SHAPES[shape](x[rows] / scale, y[rows] / scale) * scale
    return distance


def _coverage(distance: torch.Tensor, pixel: float) -> torch.Tensor:
    """Share of a pixel that lies inside, from its centre's signed distance to the edge."""
    return (0.5 - distance / pixel).clamp(0.0, 1.0)


def _circle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.hypot(x, y) - 1.0


def _square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.86


def _diamond(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    half_width, half_height = 0.76, 1.08
    norm = math.hypot(1 / half_width, 1 / half_height)
    return (x.abs() / half_width + y.abs() / half_height - 1.0) / norm


def _triangle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    centred = y - 0.28
    slanted = math.sqrt(3) / 2 * x.abs() - 0.5 * centred
    return torch.maximum(slanted, centred) - 0.57


def _star(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    outer, inner, half_sector = 1.08, 0.54, math.pi / 5
    angle = torch.atan2(x, -y).abs()
    folded = (angle - 2 * half_sector * torch.round(angle / (2 * half_sector))).abs()
    length = torch.hypot(x, y)
    # Normal of the line from the tip (angle 0) to the inner corner (angle pi / 5).
    run, rise = inner * math.cos(half_sector) - outer, inner * math.sin(half_sector)
    along, across = length * torch.cos(folded) - outer, length * torch.sin(folded)
    return (along * rise - across * run) / math.hypot(run, rise)


def _heart(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    half_side = 0.62  # a square on its corner, and a half disc on each of its upper sides
    low = y - 0.12
    diagonal = (x.abs() + low.abs()) / math.sqrt(2) - half_side
    centre = half_side / math.sqrt(2)
    lobe = torch.hypot(x.abs() - centre, low + centre) - half_side
    return torch.minimum(diagonal, lobe)


def _cross(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    u, v = x.abs(), y.abs()
    return torch.maximum(torch.maximum(u, v) - 1.0, torch.minimum(u, v) - 0.36)


def _ring(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (torch.hypot(x, y) - 0.74).abs() - 0.30


_SHAPES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "diamond": _diamond,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
}


def _to_nearest(u: torch.Tensor, period: float) -> torch.Tensor:
    """Signed way from the nearest multiple of ``period`` to u."""
    return u - period * torch.round(u / period)


def _stripes(x: torch.Tensor, y: torch.Tensor, pixel: float) -> torch.Tensor:
    return _coverage(_to_nearest((x + y) / math.sqrt(2), 12.0).abs() - 2.7, pixel)


def _dots(x: torch.Tensor, y: torch.Tensor, pixel: float) -> torch.Tensor:
    return _coverage(torch.hypot(_to_nearest(x, 12.0), _to_nearest(y, 12.0)) - 3.8, pixel)


def _checks(x: torch.Tensor, y: torch.Tensor, pixel: float) -> torch.Tensor:
    side = 7.0
    columns = _coverage(_to_nearest(x, 2 * side).abs() - side / 2, pixel)
    rows = _coverage(_to_nearest(y, 2 * side).abs() - side / 2, pixel)
    return columns + rows - 2 * columns * rows


_TEXTURES = {"stripes": _stripes, "dots": _dots, "checks": _checks}


def _texture_mask(
    scenes: Sequence[Scene], x: torch.Tensor, y: torch.Tensor, pixel: float
) -> torch.Tensor:
    mask = torch.zeros_like(x)
    for texture, draw in _TEXTURES.items():
        rows = torch.tensor([i for i, s in enumerate(scenes) if s.texture == texture]).long()
        mask[rows] = draw(x[rows], y[rows], pixel)
    return mask


def _jittered_rgb(names: Sequence[str], rng: np.random.Generator) -> torch.Tensor:
    """Colours (B, 3) in [0, 1], each channel moved a little."""
    return torch.tensor([RGB[n] for n in names]) + _uniform(rng, 0.02, len(names), 3)


def _background(
    scenes: Sequence[Scene], rng: np.random.Generator, axis: torch.Tensor
) -> torch.Tensor:
    """A gradient (B, 3, H, W) in a random direction, from a darker to a lighter tone."""
    base = _jittered_rgb([s.background for s in scenes], rng)[..., None, None]
    angle = _uniform(rng, math.pi, len(scenes))[:, None, None, None]
    ramp = (angle.cos() * axis + angle.sin() * axis[:, None]) / (WIDTH * math.sqrt(2)) + 0.5
    dark, light = base * 0.82, base + 0.14 * (1 - base)
    return dark + (light - dark) * ramp


def _noise(count: int, rng: np.random.Generator, resolution: int) -> torch.Tensor:
    """Smooth mottling plus fine grain (B, 3, H, W): detail for the last, finest stages."""
    coarse = torch.from_numpy(rng.standard_normal((count, 1, 12, 12), dtype=np.float32))
    size = (resolution, resolution)
    smooth = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    grain = torch.from_numpy(rng.standard_normal((count, 1, *size), dtype=np.float32))
    return smooth.mul_(0.012) + grain.mul_(0.006)
