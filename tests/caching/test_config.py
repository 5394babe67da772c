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


# --- options after the seven documented ones ----------------------------------------------------

EVERYTHING_SET = {
    "prune_stages": {"2304": 0.5, "4096": 0.75},
    "prune_source": 1296,
    "guidance_stop_stage": 4096,
    "compute_attn_layers": [3],
    "compute_mlp_layers": [0, 1],
}


def test_further_options_are_keyword_only_and_off():
    config = CacheConfig()
    assert config.prune_stages == ()
    assert config.prune_source is config.guidance_stop_stage is None
    assert config.compute_attn_layers == config.compute_mlp_layers == ()
    with pytest.raises(TypeError):
        CacheConfig([256], [144], True, True, 0.7, False, "bilinear", {256: 0.5})


@pytest.mark.parametrize(
    "stages",
    [
        {4096: 0.75, 2304: 0.5},
        {"2304": 0.5, "4096": 0.75},
        [(2304, 0.5), (4096, 0.75)],
        ((4096, 0.75), (2304, 0.5), (4096, 0.75)),
        {np.int64(2304): np.float64(0.5), 4096: 0.75},
    ],
)
def test_prune_stages_become_sorted_pairs(stages):
    config = CacheConfig(prune_stages=stages)
    assert config.prune_stages == ((2304, 0.5), (4096, 0.75))
    assert [type(x) for pair in config.prune_stages for x in pair] == [int, float] * 2
    assert config.prunes_anything
    assert config.changes_anything
    assert not config.caches_anything


def test_further_options_compare_hash_and_survive_json():
    config = CacheConfig([256], [144], **EVERYTHING_SET)
    assert CacheConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert {name: config.to_dict()[name] for name in EVERYTHING_SET} == EVERYTHING_SET
    assert len({config, CacheConfig.from_dict(config.to_dict()), CacheConfig([256], [144])}) == 2
    for name in EVERYTHING_SET.keys() - {"prune_source"}:
        rest = {key: value for key, value in EVERYTHING_SET.items() if not key.startswith(name)}
        if name == "prune_stages":
            del rest["prune_source"]
        assert CacheConfig([256], [144], **rest) != config


@pytest.mark.parametrize("ratio", [1.0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_ratios_outside_0_to_1_are_refused(ratio):
    with pytest.raises(ValueError, match=r"prune_stages.*at least 0 and below 1, got"):
        CacheConfig(prune_stages={2304: ratio})


@pytest.mark.parametrize(
    ("stages", "error", "message"),
    [
        ({50: 0.5}, ValueError, "square maps"),
        ({0: 0.5}, ValueError, "square maps"),
        ({True: 0.5}, TypeError, "boolean"),
        ({2304.0: 0.5}, TypeError, "integers"),
        ({2304: "0.5"}, TypeError, "number"),
        ({2304: True}, TypeError, "number"),
        ({2304: None}, TypeError, "number"),
        ([2304], TypeError, "map token counts to ratios"),
        ("2304:0.5", TypeError, "map token counts to ratios"),
        (["2304:0.5"], TypeError, "map token counts to ratios"),
        (2304, TypeError, "map token counts to ratios"),
        ([(2304, 0.5, 1)], ValueError, "pairs"),
        ([(2304, 0.5), (2304, 0.6)], ValueError, "two ratios for stage 2304"),
    ],
)
def test_prune_stages_of_another_form_are_refused(stages, error, message):
    with pytest.raises(error, match=rf"prune_stages.*{message}"):
        CacheConfig(prune_stages=stages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_source": 1296}, "prune_source is 1296, but prune_stages names no stage"),
        ({"prune_stages": {2304: 0.5}, "prune_source": 2304}, "before the first of prune_stages"),
        ({"prune_stages": {2304: 0.5}, "prune_source": 4096}, "before the first of prune_stages"),
        ({"prune_stages": {2304: 0.5}, "prune_source": 1295}, "prune_source .*square maps"),
        (
            {"prune_stages": {4: 0.5}, "enable_attn_cache": False, "enable_mlp_cache": False},
            "prune_stages needs enable_attn_cache or enable_mlp_cache",
        ),
        ({"guidance_stop_stage": 4095}, "guidance_stop_stage .*square maps"),
        ({"compute_mlp_layers": [1, -1]}, "compute_mlp_layers .*from 0 on, got -1"),
    ],
)
def test_contradictions_and_unknown_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CacheConfig(**options)


@pytest.mark.parametrize("layers", [0, "0", [0.5], [True], {0: 1}, ["0"]])
def test_blocks_of_another_type_are_refused(layers):
    with pytest.raises(TypeError, match="compute_attn_layers must"):
        CacheConfig(compute_attn_layers=layers)


def test_blocks_become_sorted_indices():
    assert CacheConfig(compute_mlp_layers=[2, 0, np.int64(2)]).compute_mlp_layers == (0, 2)
    config = CacheConfig([256], [144], compute_mlp_layers=[2, 0], compute_attn_layers=None)
    assert "mlp of layer 0, 2 computed" in str(config)


def test_blocks_that_a_model_lacks_are_warned_about():
    config = CacheConfig([256], [144], compute_mlp_layers=[0, 6], compute_attn_layers=[9])
    with pytest.warns(UserWarning, match=r"blocks 6, 9 of .* this model has blocks 0 to 5"):
        config.warn_about(HART_1024, depth=6)


def test_the_string_says_what_the_further_options_do():
    text = str(CacheConfig(**EVERYTHING_SET))
    for part in ("prune 2304:0.5, 4096:0.75 from 1296", "no guidance from 4096"):
        assert part in text
    assert "skip" not in text
    assert "\n" not in text
    assert str(CacheConfig(prune_stages={4: 0.0})) == "CacheConfig(off)"


def test_the_source_is_the_stage_before_the_first_pruned_one():
    resolved = CacheConfig(prune_stages={2304: 0.5, 4096: 0.75}).resolve(HART_1024)
    assert resolved.prune_source == 1296
    assert CacheConfig(prune_stages={4: 0.5}).resolve(HART_1024).prune_source == 1
    assert CacheConfig(prune_stages={2304: 0.0, 4096: 0.5}).resolve(HART_1024).prune_source == 2304
    assert CacheConfig(prune_stages={1: 0.5}).resolve(HART_1024).prune_source is None
    chosen = CacheConfig(prune_stages={4096: 0.5}, prune_source=144)
    assert chosen.resolve(HART_1024).prune_source == 144


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"prune_stages": {36: 0.5, 256: 0.5}}, ["36 are not stages"]),
        ({"guidance_stop_stage": 36}, ["36 are not stages"]),
        ({"guidance_stop_stage": 36, "enable_attn_cache": False, "enable_mlp_cache": False},
         ["36 are not stages"]),
        ({"prune_stages": {256: 0.5}, "prune_source": 36},
         ["36 are not stages", "256 will be computed for all tokens"]),
        ({"prune_stages": {1: 0.5}}, ["1 will be computed for all tokens"]),
        ({"prune_stages": {256: 0.5}, "guidance_stop_stage": 256}, []),
    ],
)  # fmt: skip
def test_stages_that_cannot_be_pruned_are_warned_about(options, messages):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CacheConfig(**options).warn_about(HART_1024)
    assert len(caught) == len(messages)
    for warning, message in zip(caught, messages, strict=True):
        assert message in str(warning.message)
