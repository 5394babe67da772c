"""Reading the reference numbers in ``tests/golden``; its README says what they are."""

from __future__ import annotations

import atexit
import functools
import json
import lzma
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save_file

from tests.golden_weights import draw_weights

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

    def weights(self) -> dict[str, torch.Tensor]:
        """The case's state dict, with the key names of the public implementation; the caller's."""
        return {name: tensor.clone() for name, tensor in self._weights.items()}

    @functools.cached_property
    def _weights(self) -> dict[str, torch.Tensor]:
        shapes = {
            f"{module}.{name}".lstrip("."): shape
            for module, tensors in read_json(self.path / "shapes.json").items()
            for name, shape in tensors.items()
        }
        sizes = self.config.get("args", self.config)
        levels = [side * side for side in sizes.get("patch_nums", ())]
        if levels:
            levels[0] = sizes.get("context_token", 1)
        weights = draw_weights(self.path.name, shapes, self.meta["weight_seed"], levels)
        for name, entries in read_json(self.path / "ties.json").items():
            for index, value in entries:
                weights[name].view(-1)[index] = value
        return weights


@functools.cache
def load_case(name: str) -> GoldenCase:
    """Read ``tests/golden/<name>`` once; parts that the case does not have are empty."""
    path = GOLDEN / name
    return GoldenCase(path, read_json(path / "config.json"), read_json(path / "meta.json"))


def read_json(file: Path) -> dict:
    return json.loads(file.read_text()) if file.is_file() else {}


def write_model(name: str, folder: Path) -> None:
    """Write a case's model as a checkpoint: its weights, and what there is beside them."""
    case = load_case(name)
    if name == "text-encoder":
        shutil.copytree(case.path / "text_model", folder)
    else:
        folder.mkdir(parents=True)
        shutil.copy(case.path / "config.json", folder)
    if name == "var-small":
        torch.save(case.weights(), folder / "var_small.pth")
    else:
        save_file(case.weights(), folder / "model.safetensors", metadata={"format": "pt"})


@functools.cache
def golden_models() -> Path:
    """The models as checkpoints, each in a folder of its case's name, while this process runs."""
    root = Path(tempfile.mkdtemp(prefix="golden-"))
    atexit.register(shutil.rmtree, root)
    for name in ("tokenizer", "llama-shared-aln", "llama-no-aln", "text-encoder", "var-small"):
        write_model(name, root / name)
    return root
