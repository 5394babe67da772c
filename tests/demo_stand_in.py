"""A tiny model in the bundled demo's place: its stages, random weights, a reader that guesses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hart.demo
import hart.demo.reader
from hart.demo import DEMO_CHECKPOINT
from hart.demo.scene import ATTRIBUTES
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from tests.golden_data import write_model
from tests.pipeline.checkpoint_folder import CONTEXT_TOKEN, TEXT_MODEL
from tests.tiny_models import fill, tiny_model


class Guessing:
    """Reads the first class of every attribute off every picture of ``image_size`` pixels."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(len(images), dtype=torch.long) for name in ATTRIBUTES}


def put_in_the_demos_place(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Write the checkpoint to ``root``, which is the demo from now on, and return it."""
    context_dim = json.loads((TEXT_MODEL / "config.json").read_text())["hidden_size"]
    sides = json.loads((DEMO_CHECKPOINT / "llm" / "config.json").read_text())["patch_nums"]
    model = tiny_model(
        HARTForT2IEnhanced,
        patch_nums=tuple(sides),
        context_dim=context_dim,
        context_token=CONTEXT_TOKEN,
    )
    fill(model, 0.95)
    model.save_pretrained(root / "llm")
    (vae,) = model.vae_proxy
    vae.save_pretrained(root / "tokenizer")
    write_model("text-encoder", root / "text_model")
    patch.setattr(hart.demo, "DEMO_CHECKPOINT", root)
    reader = Guessing(sides[-1] * vae.downsample)
    patch.setattr(hart.demo.reader, "load_reader", lambda: reader)
    return root
