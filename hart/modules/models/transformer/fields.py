"""What the fields of the transformers' configurations may hold; see :mod:`hart.utils.fields`."""

from __future__ import annotations

from functools import partial
from typing import Any

from hart.modules.diffusion.respace import space_timesteps
from hart.modules.networks.caching.config import CacheConfig
from hart.utils.fields import Checked, Choice, Field, Flag, Items, Number, Optional, Text, Whole
from hart.utils.options import Kind, options_of

MAX_TOKENS = 1 << 18
"""Image tokens of all stages together; the published 1024-pixel model has 9 451."""

FAMILIES = ("llama", "gpt2")
_FLAG, _MAYBE, _RATE = Flag(), Optional(Flag()), Number(0, 1)

_SIDES = Items(Whole(1, 512), 1, 64)


def _few_tokens(sides: Any) -> None:
    if not _SIDES.allows(sides) or sum(side * side for side in sides) > MAX_TOKENS:
        raise ValueError


SIDES = Checked(_few_tokens, f"a list of map sides, at most {MAX_TOKENS} tokens in all")

VOCAB_SIZE, Z_CHANNELS = Whole(1, 1 << 24), Whole(1, 1 << 16)

TRANSFORMER_FIELDS: dict[str, Field] = {
    "vae_path": Optional(Text(1)),
    "depth": Whole(1, 1024),
    "embed_dim": Whole(1, 1 << 16),
    "num_heads": Whole(1, 1 << 10),
    "mlp_ratio": Number(1e-3, 64),
    "drop_rate": _RATE,
    "attn_drop_rate": _RATE,
    "drop_path_rate": _RATE,
    "norm_eps": Number(1e-12, 1),
    "shared_aln": _FLAG,
    "cond_drop_rate": Number(),
    "attn_l2_norm": _FLAG,
    "patch_nums": SIDES,
    "flash_if_available": _FLAG,
    "fused_if_available": _FLAG,
    "mlp_type": Choice(FAMILIES),
    "attn_type": Choice(FAMILIES),
    "disable_aln": _FLAG,
    "use_timestep_embed": _FLAG,
    "sep_aln_pooling_mode": Choice(("max", "avg")),
    "use_cross_attn": _FLAG,
    "diffusion_head_repeats": Whole(1, 1 << 10),
}

CLASS_FIELDS: dict[str, Field] = {
    "num_classes": Whole(1, 1 << 24),
    "latent_condition_weight": Number(),
    "vocab_size": VOCAB_SIZE,
    "z_channels": Z_CHANNELS,
}

TEXT_FIELDS: dict[str, Field] = {
    "context_token": Whole(1, 1 << 14),
    "context_dim": Whole(1, 1 << 16),
    "use_context_norm": _FLAG,
    "context_norm_scale": Number(),
    "vocab_size": Optional(VOCAB_SIZE),
    "z_channels": Optional(Z_CHANNELS),
}

DIFFUSION_FIELDS: dict[str, Field] = {
    "diff_width": Whole(1, 1 << 16),
    "diff_depth": Whole(1, 1 << 10),
    "num_sampling_steps": Checked(
        partial(space_timesteps, 1000), "counts of the 1000 steps, such as '8', '10,20' or 'ddim25'"
    ),
    "diffusion_batch_mul": Whole(1, 1 << 10),
    "sampler": Choice(("iddpm",)),
}


def _check(kind: Kind, value: object) -> None:
    kind.check(value, "")


CACHE_FIELDS: dict[str, Field] = {
    each.name: Optional(Checked(partial(_check, each.kind), each.kind.text))
    for each in options_of(CacheConfig).values()
}
CACHE_FIELDS |= {
    "use_cache": _MAYBE,
    "calibration": _MAYBE,
    "sim_path": Optional(Text()),
    "threshold": CACHE_FIELDS["cache_threshold"],
}


def _gone(value: object) -> None:
    raise ValueError


GONE_FIELDS: dict[str, Field] = {
    "cache_reuse_kv": Optional(Checked(_gone, "left out, as the option is gone")),
}
"""Options that a configuration file may name, but not set."""
