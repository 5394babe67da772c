"""Reading the reference numbers in ``tests/golden``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """One folder of recorded inputs and outputs of the public implementation."""

    path: Path
    config: dict
    meta: dict
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]

    def weights(self, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
        """The case's state dict, with the key names of the public implementation."""
        return load_file(self.path / name)


def load_case(name: str) -> GoldenCase:
    """Read ``tests/golden/<name>``; parts that the case does not have are empty."""
    path = GOLDEN / name

    def read_json(file: str) -> dict:
        return json.loads((path / file).read_text()) if (path / file).is_file() else {}

    def read_tensors(file: str) -> dict[str, torch.Tensor]:
        return load_file(path / file) if (path / file).is_file() else {}

    return GoldenCase(
        path,
        read_json("config.json"),
        read_json("meta.json"),
        read_tensors("inputs.safetensors"),
        read_tensors("outputs.safetensors"),
    )
