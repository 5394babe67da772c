"""A tiny but complete checkpoint: the golden transformer, quantizer and text encoder.

The golden decoder makes 128-pixel images, which would take most of the tests' time; one with two
levels makes 16-pixel images of the same feature maps.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from safetensors.torch import save

from hart.modules.models.autoencoder import HARTAutoEncoder, HARTAutoEncoderConfig
from tests.golden_data import GOLDEN, load_case, write_model

TEXT_MODEL = GOLDEN / "text-encoder" / "text_model"
CONTEXT_TOKEN = 12
PATCH_NUMS = (1, 2, 3, 4, 6, 8)
STAGES = tuple(side * side for side in PATCH_NUMS)
DEPTH = 3


def make_checkpoint(root: Path) -> Path:
    """Write ``llm``, ``tokenizer`` and ``text_model`` to ``root`` and return it."""
    write_model("llama-no-aln", root / "llm")
    write_model("text-encoder", root / "text_model")
    (root / "tokenizer").mkdir()
    for name, content in _small_tokenizer().items():
        (root / "tokenizer" / name).write_bytes(content)
    return root


@functools.cache
def _small_tokenizer() -> dict[str, bytes]:
    """The files of the autoencoder's folder."""
    golden = load_case("tokenizer")
    fields = {**golden.config, "ch_mult": [1, 1]}
    for name in ("model_type", "architectures"):
        del fields[name]
    config = HARTAutoEncoderConfig.from_dict(fields)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = HARTAutoEncoder(config).state_dict()
    for key, value in golden.weights().items():
        if key.startswith("vae.quantize."):
            state[key.removeprefix("vae.")] = value
    return {
        "config.json": json.dumps({**fields, "model_type": config.model_type}).encode(),
        "model.safetensors": save({key: value.contiguous() for key, value in state.items()}),
    }
