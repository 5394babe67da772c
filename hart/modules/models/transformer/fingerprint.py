"""Telling weights apart."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from hart.utils.adapted import at_hand, is_plain


@torch.no_grad()
def fingerprint_of(model: Any) -> str | None:
    """A hash over signs of some weights, whatever their dtype.

    None where one of them cannot be read: quantised, or inside something that hides it.
    """
    digest = hashlib.sha256()
    for name in ("head", "word_embed", f"blocks.{model.depth - 1}.attn.proj"):
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            return None
        with at_hand(layer):
            weight = getattr(layer, "weight", None)
            if weight is None or not is_plain(weight):
                return None
            signs = weight.flatten()[:65536].cpu() > 0
        digest.update(bytes(signs.to(torch.uint8).tolist()))
    return digest.hexdigest()
