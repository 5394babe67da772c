"""A small network that reads a demo picture's attributes back off its pixels.

It is the demo's measuring instrument: how often a generated picture shows what its prompt asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from hart.demo.scene import ATTRIBUTES
from hart.utils.errors import CheckpointError, one_line
from hart.utils.fields import Items, Text, Whole
from hart.utils.json_files import read_json_object
from hart.utils.weights import load_into, read_state_dict

IMAGE_SIZE = 288
BUNDLED_READER = Path(__file__).parent / "assets" / "reader" / "model.safetensors"
_POOLED_SIZE = 128  # at least; larger pictures are averaged down by a whole factor
_WIDTHS = (32, 48, 64, 80)
_HIDDEN = 96
_CLASSES = Items(Text(1), 1, 1024)
_SIDE = Whole(16, 4096)


class AttributeReader(nn.Module):
    """Four stride-2 convolutions, two wide-view layers, pooling, and one head per attribute.

    ``attributes`` maps each attribute to the names of its classes, in label order. Pictures have
    ``image_size`` pixels a side; from 256 on they are averaged down to between 128 and 255.
    """

    def __init__(
        self, attributes: Mapping[str, Sequence[str]] = ATTRIBUTES, image_size: int = IMAGE_SIZE
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.attributes = {name: tuple(values) for name, values in attributes.items()}
        first, second, third, last = _WIDTHS
        self.features = nn.Sequential(
            _block(4, first, kernel_size=5), _block(first, second), _block(second, third)
        )
        self.place = _block(third + 2, last)  # sees where it is: position is an attribute
        self.view = nn.Sequential(_WideView(last), _WideView(last))
        self.trunk = nn.Sequential(nn.Linear(2 * (third + last), _HIDDEN), nn.ReLU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(_HIDDEN, len(values)) for name, values in self.attributes.items()}
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Class logits (B, classes) by attribute, for RGB images (B, 3, side, side) in [-1, 1].

        Raises ``ValueError`` for any other shape.
        """
        side = self.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, must be (B, 3, {side}, {side})"
            )
        images = F.avg_pool2d(images, max(1, side // _POOLED_SIZE))
        fine = self.features(torch.cat([images, _contrast(images)], dim=1))
        coarse = self.view(self.place(torch.cat([fine, _coordinates(fine)], dim=1)))
        # Things are told apart by small patches and by the whole: both maps are pooled.
        pooled = [pool for x in (fine, coarse) for pool in (x.mean((2, 3)), x.amax((2, 3)))]
        hidden = self.trunk(torch.cat(pooled, dim=1))
        return {name: head(hidden) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Most likely class index, int64 (B,), by attribute; images as for :meth:`forward`.

        Runs in evaluation mode on the reader's own device and dtype. Raises ``ValueError`` for
        a wrong image shape.
        """
        weight = next(self.parameters())
        was_training = self.training
        self.eval()
        try:
            logits = self(images.to(weight))
        finally:
            self.train(was_training)
        return {name: values.argmax(1) for name, values in logits.items()}


class _WideView(nn.Module):
    """Residual depthwise 5x5 and pointwise convolution: on the last map it spans a large thing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + torch.relu(self.norm(self.pointwise(self.depthwise(x))))


def accuracy(
    read: Mapping[str, torch.Tensor], labels: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Share of pictures in [0, 1] whose reading agrees with the label, by attribute of ``read``."""
    return {
        name: (values == labels[name].to(values.device)).float().mean().item()
        for name, values in read.items()
    }


def save_reader(reader: AttributeReader, path: str | Path) -> None:
    """Write the weights to ``path`` (safetensors) and the class names to ``config.json`` beside."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"attributes": reader.attributes, "image_size": reader.image_size}
    config = json.dumps(known, indent=2) + "\n"
    (path.parent / "config.json").write_text(config)
    partial = path.with_name(path.name + ".partial")
    save_file({k: v.contiguous() for k, v in reader.state_dict().items()}, partial)
    partial.replace(path)


def load_reader(path: str | Path = BUNDLED_READER) -> AttributeReader:
    """Read a reader written by :func:`save_reader`, in evaluation mode on the CPU.

    Raises ``FileNotFoundError`` when the weights or the ``config.json`` beside them are missing
    and ``CheckpointError`` when either is damaged or they do not belong together.
    """
    path = Path(path)
    config_path = path.parent / "config.json"
    for file in (path, config_path):
        if not file.is_file():
            raise FileNotFoundError(f"no attribute reader file at {file}")
    config = read_json_object(config_path)
    attributes: Any = config.get("attributes")
    image_size: Any = config.get("image_size")
    if not isinstance(attributes, dict) or not all(map(_CLASSES.allows, attributes.values())):
        raise CheckpointError(f"{config_path}: attributes must map names to {_CLASSES}")
    if not _SIDE.allows(image_size):
        raise CheckpointError(f"{config_path}: image_size must be {_SIDE}, got {image_size!r}")
    try:
        reader = AttributeReader(attributes, image_size)
    except (KeyError, TypeError) as error:  # a name that no module can have
        raise CheckpointError(f"{config_path}: attributes: {one_line(error)}") from error
    load_into(reader, read_state_dict(path), source=path)
    return reader.eval()


def _block(inputs: int, outputs: int, kernel_size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride=2, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _contrast(images: torch.Tensor) -> torch.Tensor:
    """Distance of every pixel from the mean colour of the picture's border, (B, 1, H, W).

    The border is always background, so this shows the outline alike for every pair of colours.
    """
    rows, columns = images[..., [0, -1], :].mean((2, 3)), images[..., [0, -1]].mean((2, 3))
    border = (rows + columns)[..., None, None] / 2
    return (images - border).abs().mean(1, keepdim=True)


def _coordinates(x: torch.Tensor) -> torch.Tensor:
    """Horizontal and vertical position in [-1, 1] of every cell, (B, 2, H, W)."""
    batch, _, height, width = x.shape
    horizontal = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    vertical = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
    grid = torch.stack(torch.meshgrid(horizontal, vertical, indexing="xy"))
    return grid.expand(batch, -1, -1, -1)
