"""Reading the reference numbers in ``tests/golden``; its README says what they are."""

from __future__ import annotations

import functools
import json
import lzma
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, load_file

GOLDEN = Path(__file__).parent / "golden"


def read_packed(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors.xz`` file.

    Packed, a tensor is named ``name:dtype`` and holds byte 0 of all numbers, then byte 1, and so
    on: that compresses better.
    """
    tensors = {}
    for key, planes in load(lzma.decompress(file.read_bytes())).items():
        name, dtype = key.rsplit(":", 1)
        flat = planes.movedim(0, -1).reshape(-1).view(getattr(torch, dtype))
        tensors[name] = flat.reshape(planes.shape[1:])
    return tensors


@dataclass(frozen=True)
class GoldenCase:
    """One folder of recorded inputs and outputs of the public implementation."""

    path: Path
    config: dict
    meta: dict

    @functools.cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        return self._tensors("inputs")

    @functools.cached_property
    def outputs(self) -> dict[str, torch.Tensor]:
        return self._tensors("outputs")

    def _tensors(self, part: str) -> dict[str, torch.Tensor]:
        """Read when they are asked for: what is collected looks at ``meta`` only."""
        file = self.path / f"{part}.safetensors.xz"
        return read_packed(file) if file.is_file() else {}

    def weights(self, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
        """The case's state dict, with the key names of the public implementation."""
        return load_file(self.path / name)


@functools.cache
def load_case(name: str) -> GoldenCase:
    """Read ``tests/golden/<name>`` once; parts that the case does not have are empty."""
    path = GOLDEN / name

    def read_json(file: str) -> dict:
        return json.loads((path / file).read_text()) if (path / file).is_file() else {}

    return GoldenCase(path, read_json("config.json"), read_json("meta.json"))
