"""The manual of caching lists what there is: options, flags, presets."""

from __future__ import annotations

import re

from hart.cli.commands import CommandParser
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.pipeline import GenerationOptions, VARGenerationOptions
from hart.utils.options import Option, options_of
from tests.documents import MANUAL, rows, section


def flags_of(option: Option) -> str:
    return ", ".join(f"`{flag}`" for flag in option.flags)


def test_the_manual_has_the_cache_options_as_they_are_written():
    expected = []
    for name, option in options_of(CacheConfig).items():
        default = "none" if option.default in (None, ()) else f"`{option.default!r}`"
        meaning = f"{option.help} ({option.kind.text})"
        expected.append([f"`{name}`", flags_of(option), default, meaning])
    assert rows(section(MANUAL, "Configuration"))[2:] == expected


def test_the_manual_has_the_sampling_options_as_they_are_written():
    listed = {row[0]: row[2] for row in rows(section(MANUAL, "All flags"))}
    for kind in (GenerationOptions, VARGenerationOptions):
        for option in options_of(kind).values():
            assert not option.flags or listed[flags_of(option)] == option.help


def test_the_manual_lists_every_flag_once():
    from hart.cli.arguments import add_generate_arguments

    parser = CommandParser()
    add_generate_arguments(parser)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    options, table = (rows(section(MANUAL, title)) for title in ("Configuration", "All flags"))
    cells = [row[1] for row in options] + [row[0] for row in table]
    listed = [flag for cell in cells for flag in re.findall(r"`(--[\w-]+)`", cell)]
    assert sorted(listed) == sorted(set(flags) - {"-h", "--help"})
    for action in parser._actions:
        row = next((row for row in table if f"`{action.option_strings[0]}`" in row[0]), None)
        if row and action.choices and "--cache-preset" not in action.option_strings:
            assert set(re.findall(r"`([^`-][^`]*)`", row[2])) == set(action.choices), row


def test_the_manual_lists_every_preset_as_it_is():
    table = {row[0].strip("`"): row[1:] for row in rows(section(MANUAL, "Presets"))[2:]}
    for name, preset in CACHE_PRESETS.items():
        sites, threshold, other, *skips = table.pop(name)
        config = preset_config(name, range(1, 9))
        words = {("attn", "mlp"): "both", ("attn",): "attention", ("mlp",): "MLP", (): "none"}
        assert sites == words[config.enabled_sites], name
        assert threshold == (f"{preset.base.threshold:g}" if config.skip_stages else ""), name
        assert ("adaptive" in other) == preset.base.adaptive_threshold, name
        shares = ", ".join(f"{ratio:.0%}".replace("%", " %") for ratio in preset.prune_last)
        assert other.removeprefix("prunes ").startswith(shares), name
        assert ("prunes" in other) == bool(shares), name
        assert ("no guidance" in other) == bool(preset.unguided_last), name
        assert ("bicubic" in other) == (preset.base.interpolation_mode == "bicubic"), name
        published = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
        for listed, sides in zip(skips, (published, published[:12]), strict=True):
            lengths = preset_config(name, sides).skip_stages
            assert listed == ", ".join(map(str, lengths)), name
    assert not table
