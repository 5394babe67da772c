"""The cache configuration: strict, immutable, and clear about stages a model does not have."""

from __future__ import annotations

import json
import warnings
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.stages import StageSchedule

HART_1024 = StageSchedule((1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64))


def test_documented_fields_order_and_defaults():
    config = CacheConfig()
    assert list(config.to_dict()) == [
        "skip_stages", "cache_stages", "enable_attn_cache", "enable_mlp_cache", "threshold",
        "adaptive_threshold", "interpolation_mode",
    ]  # fmt: skip
    assert list(config.to_dict().values()) == [[], [], True, True, 0.7, False, "bilinear"]
    assert CacheConfig([256], [144], False, True, 0.5, True, "bicubic").to_dict() == {
        "skip_stages": [256],
        "cache_stages": [144],
        "enable_attn_cache": False,
        "enable_mlp_cache": True,
        "threshold": 0.5,
        "adaptive_threshold": True,
        "interpolation_mode": "bicubic",
    }


@pytest.mark.parametrize(
    "stages", [[256, 169, 256], (169, 256), {169, 256}, np.array([256, 169]), iter([256, 169])]
)
def test_stages_become_sorted_tuples_of_plain_integers(stages):
    skip = CacheConfig(skip_stages=stages).skip_stages
    assert skip == (169, 256)
    assert all(type(stage) is int for stage in skip)


def test_it_is_immutable_comparable_and_hashable():
    config = CacheConfig([256], [144])
    assert config == CacheConfig((256,), {144})
    assert len({config, CacheConfig((256,), (144,)), CacheConfig()}) == 2
    with pytest.raises(FrozenInstanceError):
        config.threshold = 0.1


@pytest.mark.parametrize("field", ["skip_stages", "cache_stages"])
@pytest.mark.parametrize("value", [[True], [256.0], ["256"], "256", 256, [None], {4: 9}])
def test_stages_that_are_not_integers_are_refused(field, value):
    with pytest.raises(TypeError, match=field):
        CacheConfig(**{field: value})


@pytest.mark.parametrize("value", [[0], [-4], [2], [255]])
def test_stages_that_are_not_square_maps_are_refused(value):
    with pytest.raises(ValueError, match="skip_stages"):
        CacheConfig(skip_stages=value)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_thresholds_outside_the_unit_interval_are_refused(value):
    with pytest.raises(ValueError, match="threshold"):
        CacheConfig(threshold=value)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5)])
def test_thresholds_are_stored_as_float(value):
    assert type(CacheConfig(threshold=value).threshold) is float


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", "0.7"),
        ("threshold", True),
        ("threshold", None),
        ("enable_attn_cache", 1),
        ("enable_mlp_cache", "yes"),
        ("adaptive_threshold", None),
    ],
)
def test_wrong_types_are_refused_by_field_name(field, value):
    with pytest.raises(TypeError, match=field):
        CacheConfig(**{field: value})


def test_an_unknown_mode_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"bilinear, nearest, bicubic.*'cubic'"):
        CacheConfig(interpolation_mode="cubic")


def test_dictionary_round_trip_through_json():
    config = CacheConfig([256], [144], threshold=0.55, adaptive_threshold=True)
    assert CacheConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert CacheConfig.from_dict({}) == CacheConfig()


def test_an_unknown_key_is_an_error_and_not_dropped():
    with pytest.raises(ValueError, match=r"unknown cache option treshold; known are skip_stages"):
        CacheConfig.from_dict({"treshold": 0.9})


def test_the_string_is_one_line_and_says_what_matters():
    text = str(CacheConfig([256], [144], enable_mlp_cache=False, adaptive_threshold=True))
    assert "\n" not in text
    for part in ("256", "144", "attn", "0.7", "adaptive", "bilinear"):
        assert part in text
    assert "mlp" not in text
    assert str(CacheConfig()) == "CacheConfig(off)"


def test_sites():
    config = CacheConfig([256], [144], enable_attn_cache=False)
    assert not config.is_enabled("attn")
    assert config.is_enabled("mlp")
    assert config.enabled_sites == ("mlp",)
    with pytest.raises(ValueError, match="ffn"):
        config.is_enabled("ffn")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CacheConfig([256], [144]), True),
        (CacheConfig([256], []), False),
        (CacheConfig([], [144]), False),
        (CacheConfig([256], [144], False, False), False),
        (CacheConfig([256], [144], False, True), True),
    ],
)
def test_caches_anything_needs_both_stage_lists_and_a_site(config, expected):
    assert config.caches_anything is expected


def test_stages_of_var_are_split_off_on_a_hart_schedule():
    resolved = CacheConfig([169, 256], [100, 144, 169]).resolve(HART_1024)
    assert resolved.skip_stages == (256,)
    assert resolved.cache_stages == (144,)
    assert resolved.unknown_stages == (100, 169)
    assert resolved.unfed_stages == ()


def test_a_first_stage_or_one_without_stored_predecessor_is_unfed():
    resolved = CacheConfig([1, 49, 256], [36, 25, 81]).resolve(HART_1024)
    assert resolved.unfed_stages == (1, 256)  # 25 feeds 49, because there is no 36


def test_one_warning_per_kind_names_the_stages():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CacheConfig([100, 169, 256], [100, 169]).warn_about(HART_1024)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert "100, 169 are not stages of this model" in messages[0]
    assert "2304, 4096" in messages[0]
    assert "skip stages 256 will be computed" in messages[1]
    assert all(warning.filename == __file__ for warning in caught)


@pytest.mark.parametrize(
    "config",
    [CacheConfig([256], [144]), CacheConfig(), CacheConfig([100], [64], False, False)],
)
def test_a_fitting_or_disabled_configuration_does_not_warn(config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config.warn_about(HART_1024)
