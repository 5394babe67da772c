"""A tiny but complete checkpoint: the golden transformer, autoencoder and text encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.golden_data import GOLDEN

PARTS = {
    "llm": GOLDEN / "llama-no-aln",
    "tokenizer": GOLDEN / "tokenizer",
    "text_model": GOLDEN / "text-encoder" / "text_model",
}
CONTEXT_TOKEN = 12
PATCH_NUMS = (1, 2, 3, 4, 6, 8)
STAGES = tuple(side * side for side in PATCH_NUMS)
DEPTH = 3


def make_checkpoint(root: Path) -> Path:
    """Copy the parts to ``root`` and return it; recorded tensors stay behind."""
    for name, source in PARTS.items():
        shutil.copytree(
            source, root / name, ignore=shutil.ignore_patterns("inputs.*", "outputs.*", "meta.*")
        )
    return root
