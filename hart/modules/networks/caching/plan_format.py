"""Reading a tuned configuration from JSON.

Nothing is believed: every value is checked, and an error says what was expected.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from .config import INTERPOLATION_MODES, SITES, CacheConfig
from .corrections import Correction
from .numbers import plain
from .plan import module_of
from .stages import StageSchedule, as_integer, format_stages
from .tuned_config import COMPUTED, REUSED, TOKEN_CHOICES, TunedConfig, tuned_config

MAX_BLOCKS = 1024
MAX_CHANNELS = 1 << 16
_KEYS = (
    *("patch_nums", "depth", "reuse", "prune_stages", "token_choice", "guidance_stop_stage"),
    *("interpolation_mode", "corrections"),
)


def config_from_dict(values: Any) -> TunedConfig:
    """The inverse of :meth:`TunedConfig.to_dict`, without its outer key.

    Raises:
        ValueError: a key is missing or unknown, or a value is not allowed.
    """
    require_keys(values, _KEYS)
    try:
        schedule = StageSchedule(_list(values["patch_nums"], "patch_nums"))
    except TypeError as error:
        raise ValueError(str(error)) from error
    depth = _integer(values["depth"], "depth")
    if not 1 <= depth <= MAX_BLOCKS:
        raise ValueError(f"depth must be within 1 to {MAX_BLOCKS}, got {depth}")
    for name, allowed in (
        ("token_choice", TOKEN_CHOICES),
        ("interpolation_mode", INTERPOLATION_MODES),
    ):
        if values[name] not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(allowed)}; got {values[name]!r:.80}"
            )
    stop = values["guidance_stop_stage"]
    try:
        return tuned_config(
            schedule,
            depth,
            _reused(values["reuse"], schedule, depth),
            _pruned(values["prune_stages"], schedule),
            None if stop is None else _stage(stop, schedule, "guidance_stop_stage"),
            values["token_choice"],
            [
                _correction(each, schedule, depth)
                for each in _list(values["corrections"], "corrections")
            ],
            values["interpolation_mode"],
        )
    except TypeError as error:
        raise ValueError(str(error)) from error


def any_config_from_dict(values: Mapping[str, Any]) -> CacheConfig:
    """The inverse of ``to_dict`` of either kind of configuration.

    Raises:
        ValueError, TypeError: see :meth:`CacheConfig.from_dict`.
    """
    if isinstance(values, Mapping) and set(values) == {"plan"}:
        return config_from_dict(values["plan"])
    return CacheConfig.from_dict(values)


def require_keys(values: Any, keys: tuple[str, ...]) -> None:
    """Refuse anything but an object of exactly these keys, by ``ValueError``."""
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, found {type(values).__name__}")
    missing = [key for key in keys if key not in values]
    unknown = sorted(str(key)[:80] for key in values if key not in keys)
    if missing or unknown:
        found = [f"{key} is missing" for key in missing] + [f"{key} is unknown" for key in unknown]
        raise ValueError(f"{', '.join(found)}; the keys are {', '.join(keys)}")


def require_format(values: Any, name: str, version: int, keys: tuple[str, ...]) -> None:
    """Refuse anything but an object of these keys in this format, by ``ValueError``."""
    require_keys(values, keys)
    for key, expected in (("format", name), ("format_version", version)):
        if values[key] != expected:
            raise ValueError(f"expected {key} {expected!r}, found {values[key]!r:.80}")


def require_object(value: Any, name: str) -> dict[str, Any]:
    """The value, unless it is no object: ``ValueError`` then."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, got {type(value).__name__}")
    return value


def _integer(value: Any, name: str) -> int:
    try:
        return as_integer(value, name)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _list(value: Any, name: str) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {type(value).__name__}")
    return tuple(value)


def _stage(value: Any, schedule: StageSchedule, name: str) -> int:
    """Index of a stage that is named by its tokens; the first one cannot be changed."""
    tokens = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(tokens, bool) or tokens not in schedule.lengths[1:]:
        raise ValueError(
            f"{name} must be one of the stages {format_stages(schedule.lengths[1:])}; "
            f"got {value!r:.80}"
        )
    return schedule.index_of(tokens)


def _reused(values: Any, schedule: StageSchedule, depth: int) -> set[tuple[int, int]]:
    reused = set()
    for stage, sites in require_object(values, "reuse").items():
        si = _stage(stage, schedule, "reuse")
        require_keys(sites, SITES)
        for site in SITES:
            letters = sites[site]
            allowed = {REUSED, COMPUTED}
            if not isinstance(letters, str) or len(letters) != depth or set(letters) - allowed:
                raise ValueError(
                    f"reuse of {site} at {stage} must be {depth} letters {REUSED!r} (reused) or "
                    f"{COMPUTED!r} (computed), got {letters!r:.80}"
                )
            reused |= {
                (si, module_of(layer, site))
                for layer, letter in enumerate(letters)
                if letter == REUSED
            }
    return reused


def _pruned(values: Any, schedule: StageSchedule) -> dict[int, float]:
    pruned = {}
    for stage, share in require_object(values, "prune_stages").items():
        share = plain(share)
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not (number and 0 <= share < 1):
            raise ValueError(f"prune_stages at {stage} must be within [0, 1), got {share!r:.80}")
        pruned[_stage(stage, schedule, "prune_stages")] = float(share)
    return pruned


def _correction(values: Any, schedule: StageSchedule, depth: int) -> Correction:
    require_keys(values, ("stage", "site", "layer", "values"))
    stage, layer = values["stage"], _integer(values["layer"], "layer of corrections")
    if isinstance(stage, bool) or stage not in schedule.lengths:
        raise ValueError(f"stage of corrections is {stage!r:.80}; the model has no such stage")
    if values["site"] not in SITES or not 0 <= layer < depth:
        raise ValueError(
            f"corrections name {values['site']!r:.80} {layer}; there is no such module"
        )
    try:
        data = base64.b64decode(values["values"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"values of corrections are not base64 ({error})") from error
    if not data or len(data) % 4 or len(data) > 4 * MAX_CHANNELS:
        raise ValueError(f"values of corrections have {len(data)} bytes; expected 4 per channel")
    correction = Correction(schedule.index_of(stage), module_of(layer, values["site"]), data)
    if not correction.is_finite:
        raise ValueError("values of corrections must be finite")
    return correction
