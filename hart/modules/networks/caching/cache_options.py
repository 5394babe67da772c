"""Cache options of the command line and of the model's configuration, merged into one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .config import (
    INTERPOLATION_MODES,
    KEY_VALUE_MODES,
    CacheConfig,
)
from .presets import CACHE_PRESETS, preset_config
from .validation import parse_prune_stage

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LEGACY_PRESET = "original"

# Field of CacheConfig -> name of the option in a namespace and in HARTForT2IConfig.
OPTION_NAMES = {
    "skip_stages": "cache_skip_stages",
    "cache_stages": "cache_cache_stages",
    "enable_attn_cache": "cache_enable_attn",
    "enable_mlp_cache": "cache_enable_mlp",
    "threshold": "cache_threshold",
    "adaptive_threshold": "cache_adaptive_threshold",
    "interpolation_mode": "cache_interpolation_mode",
    "prune_stages": "cache_prune_stages",
    "prune_source": "cache_prune_source",
    "reuse_kv": "cache_reuse_kv",
    "guidance_stop_stage": "cache_guidance_stop_stage",
    "compute_attn_layers": "cache_compute_attn_layers",
    "compute_mlp_layers": "cache_compute_mlp_layers",
}


def add_cache_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add every cache flag to ``parser``. A flag that is not given leaves None behind."""
    group = parser.add_argument_group("feature caching")
    presets = "; ".join(f"{name}: {p.description}" for name, p in CACHE_PRESETS.items())
    group.add_argument(
        "--cache-preset", choices=list(CACHE_PRESETS), help=f"predefined configuration ({presets})"
    )
    group.add_argument(
        "--cache-skip-stages",
        type=int,
        nargs="*",
        metavar="N",
        help="token counts of the stages that may reuse the previous stage's outputs",
    )
    group.add_argument(
        "--cache-cache-stages",
        type=int,
        nargs="*",
        metavar="N",
        help="token counts of the stages whose outputs are kept for the next stage",
    )
    for site, name in (("attn", "attention"), ("mlp", "MLP")):
        for word, value in (("enable", True), ("disable", False)):
            group.add_argument(
                f"--cache-{word}-{site}",
                dest=f"cache_enable_{site}",
                action="store_const",
                const=value,
                help=f"{word} caching of {name} outputs",
            )
        group.add_argument(
            f"--cache-compute-{site}-layers",
            type=int,
            nargs="*",
            metavar="I",
            help=f"blocks, counted from 0, whose {name} output is never reused",
        )
    group.add_argument(
        "--cache-threshold", type=float, help="similarity in [0, 1] that reuse must exceed"
    )
    group.add_argument(
        "--cache-adaptive-threshold",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="adapt the threshold to the images that are being generated; a batch shares it",
    )
    group.add_argument(
        "--cache-interpolation-mode",
        choices=INTERPOLATION_MODES,
        help="how a stored output is resized",
    )
    _add_pruning_arguments(parser)
    legacy = parser.add_argument_group("feature caching, older spellings")
    legacy.add_argument(
        "--use-cache",
        action=argparse.BooleanOptionalAction,
        default=None,
        help=f"enable caching (preset {LEGACY_PRESET!r} unless other options say what to cache)",
    )
    legacy.add_argument(
        "--calibration", action="store_const", const=True, help="measure similarities, reuse none"
    )
    legacy.add_argument("--sim-path", help="file of similarity data to read or write")
    legacy.add_argument("--threshold", type=float, help="same as --cache-threshold")
    return parser


def _add_pruning_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("token pruning, keys and values, guidance")
    group.add_argument(
        "--cache-prune-stages",
        type=_prune_stage,
        nargs="*",
        metavar="N:RATIO",
        help="stages and the share of their tokens that takes the source stage's outputs",
    )
    group.add_argument(
        "--cache-prune-source",
        type=int,
        metavar="N",
        help="source stage (default: the one before the first pruned stage)",
    )
    group.add_argument(
        "--cache-reuse-kv",
        choices=KEY_VALUE_MODES,
        help="keys and values of tokens whose attention is not computed: add none, compute them, "
        "or resize earlier ones",
    )
    group.add_argument(
        "--cache-guidance-stop-stage",
        type=int,
        metavar="N",
        help="first stage without guidance: only the half of the batch with text is computed",
    )


def _prune_stage(text: str) -> tuple[int, float]:
    try:
        return parse_prune_stage(text)
    except ValueError as error:  # argparse would not show its message
        raise argparse.ArgumentTypeError(str(error)) from error


def resolve_cache_config(
    args: argparse.Namespace | None,
    config: PretrainedConfig | None,
    patch_nums: Sequence[int],
) -> CacheConfig:
    """Merge the options: fields of ``config``, over them a preset, over it explicit flags.

    With nothing set at all caching is off; ``use_cache`` alone means the preset ``original``.

    Args:
        args: namespace of a parser with :func:`add_cache_arguments`; missing entries are unset.
        config: configuration of the model.
        patch_nums: sides of the model's stages, which presets are relative to.

    Raises:
        ValueError, TypeError: an option has a value that :class:`CacheConfig` refuses.
    """
    from_config, from_flags = _options_of(config), _options_of(args)
    preset = getattr(args, "cache_preset", None)
    if preset is not None:
        base = preset_config(preset, patch_nums).to_dict()
    elif not from_config and not from_flags and _use_cache(args, config):
        base = preset_config(LEGACY_PRESET, patch_nums).to_dict()
    else:
        base = from_config
    return CacheConfig.from_dict({**base, **from_flags})


def resolve_use_cache(args: argparse.Namespace | None, config: PretrainedConfig | None) -> bool:
    """Whether caching is on at all; only an explicit False turns it off."""
    return _first_set("use_cache", args, config) is not False


def _use_cache(args, config) -> bool:
    return bool(_first_set("use_cache", args, config))


def _first_set(name: str, *sources: Any) -> Any:
    values = (getattr(source, name, None) for source in sources)
    return next((value for value in values if value is not None), None)


def _options_of(source: Any) -> dict[str, Any]:
    """The CacheConfig fields that ``source`` sets; the legacy ``threshold`` yields to the new."""
    options = {
        field: getattr(source, name)
        for field, name in OPTION_NAMES.items()
        if getattr(source, name, None) is not None
    }
    legacy = getattr(source, "threshold", None)
    if legacy is not None:
        options.setdefault("threshold", legacy)
    return options
