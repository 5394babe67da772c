"""Cache options of the command line and of the model's configuration, merged into one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hart.utils.options import Either, add_options, options_of

from .config import CacheConfig
from .presets import CACHE_PRESETS, preset_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LEGACY_PRESET = "original"

OPTION_NAMES = {field: option.name for field, option in options_of(CacheConfig).items()}
"""Field of :class:`CacheConfig` -> its name in a namespace and in a model's configuration."""


def add_cache_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add every cache flag to ``parser``. A flag that is not given leaves None behind."""
    group = parser.add_argument_group("feature caching")
    presets = "; ".join(f"{name}: {p.description}" for name, p in CACHE_PRESETS.items())
    group.add_argument(
        "--cache-preset",
        choices=list(CACHE_PRESETS),
        help=f"predefined configuration, which the flags below override ({presets})",
    )
    add_options(group, options_of(CacheConfig).values(), unset=True)
    group.add_argument(
        "--calibration",
        action="store_const",
        const=True,
        help="measure similarities and reuse nothing; the table is kept for later runs",
    )
    group.add_argument("--sim-path", metavar="FILE", help="similarity data to read or write")
    legacy = parser.add_argument_group("feature caching, older spellings")
    legacy.add_argument(
        "--use-cache",
        "--no-use-cache",
        action=Either,
        help=f"enable caching (preset {LEGACY_PRESET!r} unless other options say what to cache)",
    )
    text = "same as --cache-threshold"
    legacy.add_argument("--threshold", type=float, metavar="NUMBER", help=text)
    return parser


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
    elif not from_config and not from_flags and _first_set("use_cache", args, config):
        base = preset_config(LEGACY_PRESET, patch_nums).to_dict()
    else:
        base = from_config
    return CacheConfig.from_dict({**base, **from_flags})


def resolve_use_cache(args: argparse.Namespace | None, config: PretrainedConfig | None) -> bool:
    """Whether caching is on at all; only an explicit False turns it off."""
    return _first_set("use_cache", args, config) is not False


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
