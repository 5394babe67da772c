"""Cache configuration through flags, config fields, presets and the documented snippets."""

from __future__ import annotations

import argparse
import dataclasses
import json

import pytest
import torch

import hart
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.basic_hart_enhanced import CacheConfig
from hart.modules.networks.caching.cache_options import resolve_cache_config
from hart.modules.networks.caching.presets import preset_config
from tests.tiny_models import HART_SIDES, draw, tiny_config, tiny_model, tiny_vae

FIELDS = {
    "cache_skip_stages": [25, 49],
    "cache_cache_stages": [16, 25],
    "cache_enable_attn": True,
    "cache_enable_mlp": False,
    "cache_threshold": 0.35,
    "cache_adaptive_threshold": True,
    "cache_interpolation_mode": "nearest",
    "cache_prune_stages": {"25": 0.5, "49": 0.75},
    "cache_prune_source": 16,
    "cache_guidance_stop_stage": 49,
    "cache_compute_attn_layers": [1],
    "cache_compute_mlp_layers": [0, 1],
    "use_cache": True,
    "calibration": False,
    "sim_path": None,
    "threshold": 0.9,
}
CONFIG_OF_FIELDS = CacheConfig(
    (25, 49),
    (16, 25),
    True,
    False,
    0.35,
    True,
    "nearest",
    prune_stages={25: 0.5, 49: 0.75},
    prune_source=16,
    guidance_stop_stage=49,
    compute_attn_layers=(1,),
    compute_mlp_layers=(0, 1),
)


@pytest.fixture
def folder(tmp_path):
    tiny_model(HARTForT2I).save_pretrained(tmp_path / "llm")
    tiny_vae().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "llm"


def parse(*flags: str) -> argparse.Namespace:
    parser = HARTForT2IEnhanced.add_cache_arguments(argparse.ArgumentParser())
    return parser.parse_args(flags)


def resolve(*flags: str, config=None) -> CacheConfig:
    return resolve_cache_config(parse(*flags), config, HART_SIDES)


def test_no_flag_sets_nothing():
    assert set(vars(parse()).values()) == {None}
    assert resolve() == CacheConfig()
    assert not resolve().caches_anything


def test_every_flag_reaches_its_field():
    flags = (
        "--cache-skip-stages 25 49 --cache-cache-stages 16 25 --cache-enable-attn "
        "--cache-disable-mlp --cache-threshold 0.35 --cache-adaptive-threshold "
        "--cache-interpolation-mode nearest --cache-prune-stages 25:0.5 49:0.75 "
        "--cache-prune-source 16 --cache-guidance-stop-stage 49 "
        "--cache-compute-attn-layers 1 --cache-compute-mlp-layers 1 0"
    )
    assert resolve(*flags.split()) == CONFIG_OF_FIELDS


def test_explicit_flags_override_single_fields_of_a_preset():
    found = resolve("--cache-preset", "ultra-fast", "--cache-threshold", "0.9")
    expected = {**preset_config("ultra-fast", HART_SIDES).to_dict(), "threshold": 0.9}
    assert found.to_dict() == expected
    found = resolve("--cache-preset", "ultra-fast", "--no-cache-adaptive-threshold")
    assert not found.adaptive_threshold


def test_config_fields_yield_to_a_preset_and_to_flags():
    config = tiny_config(**FIELDS)
    assert resolve_cache_config(None, config, HART_SIDES) == CONFIG_OF_FIELDS
    assert resolve("--cache-preset", "original", config=config) == preset_config(
        "original", HART_SIDES
    )
    assert resolve("--cache-enable-mlp", config=config).enable_mlp_cache


def test_legacy_flags():
    assert resolve("--use-cache") == preset_config("original", HART_SIDES)
    assert resolve("--use-cache", "--cache-preset", "conservative") == preset_config(
        "conservative", HART_SIDES
    )
    assert resolve("--cache-preset", "original", "--threshold", "0.2").threshold == 0.2
    both = resolve("--threshold", "0.2", "--cache-threshold", "0.3")
    assert both.threshold == 0.3


@pytest.mark.parametrize(
    "flags",
    [
        "--cache-threshold 1.5",
        "--cache-prune-stages 49:0.5 49:0.6",
        "--cache-preset original --cache-prune-source 16",
        "--cache-compute-mlp-layers -1",
    ],
)
def test_bad_values_are_refused(flags):
    with pytest.raises(
        ValueError, match=r"threshold|skip_stages|prune_|guidance_stop_stage|mlp_layers"
    ):
        resolve(*flags.split())


@pytest.mark.parametrize("value", ["49", "49:", "x:0.5", "49:half", ":", "49=0.5"])
def test_pruned_stages_of_another_form_are_refused_with_an_example(capsys, value):
    with pytest.raises(SystemExit):
        parse("--cache-prune-stages", value)
    assert f"expected TOKENS:RATIO, for example 2304:0.5, got {value!r}" in capsys.readouterr().err


def test_pruning_flags_override_a_presets_fields():
    unguided = {"guidance_stop_stage": HART_SIDES[-2] ** 2}
    conservative = dataclasses.replace(preset_config("conservative", HART_SIDES), **unguided)
    assert resolve("--cache-preset", "hybrid", "--cache-prune-stages") == conservative
    found = resolve("--cache-preset", "fastvar", "--cache-prune-stages", "49:0.9")
    assert found.prune_stages == ((49, 0.9),)


def test_a_file_may_name_an_option_that_is_gone_but_not_set_it(folder):
    file = folder / "config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "cache_reuse_kv": None}))
    assert HARTForT2IConfig.from_pretrained(folder).depth == fields["depth"]
    file.write_text(json.dumps({**fields, "cache_reuse_kv": "project"}))
    with pytest.raises(ValueError, match=r"cache_reuse_kv .* the option is gone.*'project'"):
        HARTForT2IConfig.from_pretrained(folder)


def test_a_new_configuration_leaves_nothing_of_the_old_one_in_the_models():
    model = tiny_model(HARTForT2IEnhanced)
    model.set_cache_config(CONFIG_OF_FIELDS)
    model.set_cache_config("original")
    assert resolve_cache_config(None, model.config, HART_SIDES) == model.cache_config


def test_unknown_preset_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        parse("--cache-preset", "warp")
    assert "memory-efficient" in capsys.readouterr().err
    with pytest.raises(ValueError, match="memory-efficient"):
        tiny_model(HARTForT2IEnhanced).set_cache_config("warp")


def test_fields_survive_saving_and_loading(folder):
    config = HARTForT2IConfig.from_pretrained(folder)
    for name, value in FIELDS.items():
        setattr(config, name, value)
    model = HARTForT2IEnhanced.from_pretrained(folder, config=config)
    assert model.cache_config == CONFIG_OF_FIELDS
    model.save_pretrained(folder.parent / "saved")
    again = HARTForT2IConfig.from_pretrained(folder.parent / "saved")
    assert {name: getattr(again, name) for name in FIELDS} == FIELDS
    loaded = HARTForT2IEnhanced.from_pretrained(folder.parent / "saved")
    assert loaded.cache_config == CONFIG_OF_FIELDS


def test_a_configuration_set_at_run_time_is_saved(folder):
    model = HARTForT2IEnhanced.from_pretrained(folder)
    model.set_cache_config(CONFIG_OF_FIELDS)
    model.save_pretrained(folder.parent / "saved")
    loaded = HARTForT2IEnhanced.from_pretrained(folder.parent / "saved")
    assert loaded.cache_config == CONFIG_OF_FIELDS


def test_from_args_and_config_loads_the_weights(folder):
    config = HARTForT2IConfig.from_pretrained(folder)
    expected = HARTForT2I.from_pretrained(folder).head.weight
    for args in (parse("--cache-preset", "original"), argparse.Namespace(model_path=str(folder))):
        model = HARTForT2IEnhanced.from_args_and_config(args, config)
        assert model.head.weight.equal(expected)
    assert model.cache_config == CacheConfig()


def test_from_args_and_config_without_a_checkpoint_has_fresh_weights():
    model = HARTForT2IEnhanced.from_args_and_config(
        parse("--cache-preset", "original"), tiny_config()
    )
    assert model.cache_config == preset_config("original", HART_SIDES)


def test_use_cache_false_wins(folder):
    args = parse("--cache-preset", "original", "--no-use-cache")
    model = HARTForT2IEnhanced.from_args_and_config(args, HARTForT2IConfig.from_pretrained(folder))
    assert not model.use_cache
    assert not model.decision_plan().reuses_anything


def test_set_cache_config_refuses_other_types():
    with pytest.raises(TypeError, match="CacheConfig"):
        tiny_model(HARTForT2IEnhanced).set_cache_config({"threshold": 0.5})


def test_similarity_data_round_trip_and_fingerprint(folder, tmp_path, recwarn):
    model = HARTForT2IEnhanced.from_pretrained(folder)
    model.calibration = True
    draw(model)
    path = model.save_similarity_data()
    assert path == folder / "cache_similarity.json"
    other = HARTForT2IEnhanced.from_pretrained(folder, dtype=torch.bfloat16)
    loaded = other.load_similarity_data(path)
    assert loaded.matched == loaded.total == len(HART_SIDES) - 1
    assert loaded.provenance.library_version == hart.__version__
    assert other.similarity == model.similarity
    assert not [w for w in recwarn if "other weights" in str(w.message)]
    with torch.no_grad():
        other.head.weight.neg_()
    with pytest.warns(UserWarning, match="other weights"):
        other.load_similarity_data(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        other.load_similarity_data(tmp_path / "absent.json")
    other.config.sim_path = str(tmp_path / "given.json")
    assert other.save_similarity_data() == tmp_path / "given.json"


def test_tables_can_be_assigned_and_are_checked():
    model = tiny_model(HARTForT2IEnhanced)
    assert model.cache_similarity_mlp == [[0.0] * 15 for _ in range(model.depth)]
    model.cache_similarity_mlp = [[0.5] * 15 for _ in range(model.depth)]
    assert model.similarity.mlp[0][0] == 0.5
    with pytest.raises(ValueError, match="15"):
        model.cache_similarity_attn = [[0.5] * 9 for _ in range(model.depth)]
