"""Sizes of the models that can be measured with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class RandomShape(NamedTuple):
    """Sizes of a model: fields of its two configurations that are not their defaults."""

    transformer: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    draws: str = "prompts"


_LLAMA = {
    "mlp_type": "llama", "attn_type": "llama", "disable_aln": True, "use_timestep_embed": True,
    "use_context_norm": True,
}  # fmt: skip
_PUBLISHED = {
    "context_token": 300, "context_dim": 1536, "depth": 24, "embed_dim": 1536, "num_heads": 24,
    "patch_nums": (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64), "vocab_size": 4096,
    "z_channels": 32,
}  # fmt: skip
_CODES = {"vocab_size": 24, "z_channels": 4}
_TINY = {
    "context_token": 6, "context_dim": 12, "depth": 3, "embed_dim": 32, "num_heads": 2,
    "patch_nums": (1, 2, 3, 4, 5, 7), "diff_width": 32, "diff_depth": 1, **_CODES,
}  # fmt: skip

RANDOM_SHAPES: dict[str, RandomShape] = {
    # mit-han-lab/hart-0.7b-1024px: 732,399,168 weights in the transformer, 108,948,355 in the
    # autoencoder.
    "0.7b-1024": RandomShape({**_LLAMA, **_PUBLISHED}, {}),
    # Draws 14-pixel images in a moment, to try a command.
    "tiny": RandomShape({**_LLAMA, **_TINY}, {"ch": 32, "ch_mult": (1, 1)}),
    # VAR's var_d16.pth and vae_ch160v4096z32.pth, whose sizes are the defaults.
    "var-d16-256": RandomShape({}, {}, "classes"),
    # The same in small, for 12-pixel images.
    "var-tiny": RandomShape(
        {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_nums": (1, 2, 3, 4, 5, 6), **_CODES},
        {"ch": 32, "ch_mult": (1, 1)},
        "classes",
    ),
}
