"""The golden VAR checkpoint, and one in the layout of the published files that draws quickly."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import torch

from hart.modules.models.autoencoder.vqvae import VQVAE, vqvae_config
from hart.modules.models.transformer.var_transformer_c2i import VARForC2I
from tests.copies import copied
from tests.golden_data import golden_models, load_case

PATCH_NUMS = (1, 2, 3, 4, 5, 6)
STAGES = tuple(side * side for side in PATCH_NUMS)
DEPTH, NUM_CLASSES = 2, 10


def var_file() -> Path:
    """The golden transformer in the published layout: one flat state dict."""
    return golden_models() / "var-small" / "var_small.pth"


def vae_state() -> dict[str, torch.Tensor]:
    """The golden autoencoder's weights."""
    return load_case("var-small-vae").weights()


@copied
def golden_vae() -> VQVAE:
    state = vae_state()
    model = VQVAE(vqvae_config(state, PATCH_NUMS))
    model.load_state_dict(state)
    return model.eval()


@copied
def golden_model(model_class=VARForC2I, **overrides) -> VARForC2I:
    """The golden transformer from its ``.pth`` file with the golden autoencoder."""
    return model_class.from_pretrained(var_file(), vae=golden_vae(), **overrides)


def make_var_checkpoint(folder: Path, num_classes: int = NUM_CLASSES) -> Path:
    """Write a folder like the published one: a transformer's and an autoencoder's state dict."""
    folder.mkdir(parents=True)
    state = load_case("var-small").weights()
    rows = [*(row % NUM_CLASSES for row in range(num_classes)), NUM_CLASSES]  # the last: no class
    state["class_emb.weight"] = state["class_emb.weight"][rows]
    torch.save(state, folder / "var_small.pth")
    (folder / "vae_small.pth").write_bytes(_vae_file())
    return folder


@functools.cache
def _vae_file() -> bytes:
    file = io.BytesIO()
    torch.save(vae_state(), file)
    return file.getvalue()
