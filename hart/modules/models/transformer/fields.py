"""What the fields of the transformers' configurations may hold; see :mod:`hart.utils.fields`.

Feature caching's options are checked by the functions that :class:`CacheConfig` checks them with.
"""

from __future__ import annotations

from functools import partial

from hart.modules.diffusion.respace import space_timesteps
from hart.modules.networks.caching.config import KEY_VALUE_MODES
from hart.modules.networks.caching.interpolate import INTERPOLATION_MODES
from hart.modules.networks.caching.validation import (
    layer_tuple,
    optional_stage,
    prune_pairs,
    stage_tuple,
    unit_interval,
)
from hart.utils.fields import Checked, Choice, Field, Flag, Items, Number, Optional, Text, Whole

MAX_TOKENS = 1 << 18
"""Image tokens of all stages together; the published 1024-pixel model has 9 451."""

FAMILIES = ("llama", "gpt2")
_FLAG, _MAYBE, _RATE = Flag(), Optional(Flag()), Number(0, 1)

_SIDES = Items(Whole(1, 512), 1, 64)


def _few_tokens(sides: object) -> None:
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

_STAGES = Checked(partial(stage_tuple, name=""), "a list of token counts of square maps")
_STAGE = Checked(partial(optional_stage, name=""), "the token count of a square map")
_LAYERS = Checked(partial(layer_tuple, name=""), "a list of block indices from 0 on")
_SHARE = Checked(partial(unit_interval, name=""), "a number from 0 to 1")
_PRUNED = Checked(
    partial(prune_pairs, name=""), "token counts of square maps with shares from 0 to below 1"
)

CACHE_FIELDS: dict[str, Field] = {
    "cache_skip_stages": Optional(_STAGES),
    "cache_cache_stages": Optional(_STAGES),
    "cache_enable_attn": _MAYBE,
    "cache_enable_mlp": _MAYBE,
    "cache_threshold": Optional(_SHARE),
    "cache_adaptive_threshold": _MAYBE,
    "cache_interpolation_mode": Optional(Choice(INTERPOLATION_MODES)),
    "cache_prune_stages": Optional(_PRUNED),
    "cache_prune_source": Optional(_STAGE),
    "cache_reuse_kv": Optional(Choice(KEY_VALUE_MODES)),
    "cache_guidance_stop_stage": Optional(_STAGE),
    "cache_compute_attn_layers": Optional(_LAYERS),
    "cache_compute_mlp_layers": Optional(_LAYERS),
    "use_cache": _MAYBE,
    "calibration": _MAYBE,
    "sim_path": Optional(Text()),
    "threshold": Optional(_SHARE),
}
