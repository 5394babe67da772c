"""Numbers of numpy and torch are taken wherever Python's are; truth values are no integers."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from hart.evaluation.random_weights import random_pipeline
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.basic_hart_enhanced import CacheConfig
from hart.modules.networks.caching.numbers import plain
from hart.pipeline import GenerationOptions, VARGenerationOptions
from hart.pipeline.options import ImageRequest, plan_classes
from tests.tiny_models import generators, text, tiny_config, tiny_model
from tests.var.checkpoint import golden_model

INTEGERS = [np.int64, np.uint8, np.int32, torch.tensor, np.array]
REALS = [np.float64, np.float32, np.float16, torch.tensor, np.array, Fraction]


@pytest.mark.parametrize("make", INTEGERS)
@pytest.mark.parametrize(
    "name", ["seed", "num_images_per_prompt", "batch_size", "num_maskgit_iters", "max_token_length"]
)
def test_integer_options(name, make):
    options = GenerationOptions(**{name: make(3)})
    assert options == GenerationOptions(**{name: 3})
    assert type(getattr(options, name)) is int
    json.dumps(options.to_dict())


@pytest.mark.parametrize("make", REALS)
@pytest.mark.parametrize("name", ["cfg_scale", "top_p"])
def test_real_options(name, make):
    options = VARGenerationOptions(**{name: make(0.5)})
    assert options == VARGenerationOptions(**{name: 0.5})
    json.dumps(options.to_dict())


@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True), 2.0, np.float32(2), "2"])
@pytest.mark.parametrize("name", ["seed", "top_k", "batch_size", "num_images_per_prompt"])
def test_what_is_no_integer_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer"):
        VARGenerationOptions(**{name: value})


@pytest.mark.parametrize("value", [True, np.True_, "4.5", None, 10**400, complex(1), [4.5]])
def test_what_is_no_real_number_is_refused(value):
    with pytest.raises(ValueError, match="cfg_scale must be a number"):
        GenerationOptions(cfg_scale=value)


@pytest.mark.parametrize("value", [np.False_, torch.tensor(False), np.array(False)])
def test_truth_values(value):
    assert GenerationOptions(more_smooth=value).more_smooth is False
    assert CacheConfig(enable_mlp_cache=value).enable_mlp_cache is False


@pytest.mark.parametrize("value", ["False", 1, None, np.int64(0)])
def test_what_is_no_truth_value_is_refused(value):
    with pytest.raises(ValueError, match="more_smooth must be True or False"):
        GenerationOptions(more_smooth=value)


@pytest.mark.parametrize(
    "classes",
    [np.array([1, 2]), torch.tensor([1, 2]), [np.int64(1), torch.tensor(2)], (np.uint8(1), 2)],
)
def test_classes(classes):
    requests = plan_classes(classes, 10, VARGenerationOptions())
    assert [(type(r.prompt), r.prompt) for r in requests] == [(int, 1), (int, 2)]


@pytest.mark.parametrize("one", [np.int64(3), torch.tensor(3), np.array(3)])
def test_one_class(one):
    assert [r.prompt for r in plan_classes(one, 10, VARGenerationOptions())] == [3]


@pytest.mark.parametrize("bad", [True, np.True_, [True], torch.tensor([1.0]), np.ones((2, 2), int)])
def test_what_is_no_class_is_refused(bad):
    with pytest.raises(TypeError, match=r"classes\[0\] must be an integer"):
        plan_classes(bad, 10, VARGenerationOptions())


def test_cache_configurations():
    config = CacheConfig(
        skip_stages=np.array([16, 25]),
        cache_stages=torch.tensor([9, 16]),
        threshold=torch.tensor(0.5),
        prune_stages={np.int64(25): np.float32(0.5)},
        guidance_stop_stage=torch.tensor(25),
    )
    assert config == CacheConfig(
        (16, 25), (9, 16), True, True, 0.5, prune_stages={25: 0.5}, guidance_stop_stage=25
    )
    assert CacheConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(TypeError, match="boolean"):
        CacheConfig(guidance_stop_stage=torch.tensor(True))


def test_model_configurations_are_saved_as_plain_numbers(tmp_path):
    config = tiny_config(
        depth=np.int64(2),
        embed_dim=torch.tensor(32),
        patch_nums=[np.int64(side) for side in (1, 2, 3)],
        norm_eps=np.float32(2**-20),
    )
    config.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["depth"], fields["embed_dim"], fields["patch_nums"]) == (2, 32, [1, 2, 3])
    assert fields["norm_eps"] == 2**-20


def test_the_sampler_of_hart():
    model = tiny_model(HARTForT2IEnhanced)
    plain_numbers = {"cfg": 3.0, "top_p": 0.5, "num_maskgit_iters": 2, "more_smooth": True}
    others = {
        "cfg": np.float32(3.0),
        "top_p": torch.tensor(0.5),
        "num_maskgit_iters": np.int64(2),
        "more_smooth": np.True_,
    }
    arguments = text(model, 2)
    expected = model.autoregressive_infer_cfg(
        2, generator=generators(2), **arguments, **plain_numbers
    )
    image = model.autoregressive_infer_cfg(
        np.int64(2), generator=generators(2), **arguments, **others
    )
    assert torch.equal(image, expected)


def test_the_sampler_of_var():
    model = golden_model()
    expected = model.autoregressive_infer_cfg(2, [1, 2], g_seed=5, cfg=2.0, top_k=9)
    for labels in ([np.int64(1), torch.tensor(2)], np.array([1, 2]), torch.tensor([1, 2])):
        image = model.autoregressive_infer_cfg(
            torch.tensor(2), labels, g_seed=np.int64(5), cfg=np.float64(2), top_k=np.uint16(9)
        )
        assert torch.equal(image, expected)
    with pytest.raises(ValueError, match=r"label_B\[0\] must be an integer"):
        model.autoregressive_infer_cfg(1, [True], g_seed=5)
    with pytest.raises(ValueError, match="g_seed must be an integer"):
        model.autoregressive_infer_cfg(1, [1], g_seed=5.0)


def test_similarity_tables():
    model = tiny_model(HARTForT2IEnhanced)
    table = np.full((model.depth, model.schedule.width), 0.5, np.float32)
    for values in (table, torch.from_numpy(table), list(table)):
        model.cache_similarity_attn = values
        assert model.cache_similarity_attn == table.tolist()
    json.dumps(model.cache_similarity_attn)


def test_requests_of_ones_own():
    pipeline = random_pipeline("tiny", np.int64(0), "cpu", "float32")
    images = [
        pipeline.draw_together([ImageRequest(0, "a", seed)])[0].image
        for seed in (7, np.int64(7), torch.tensor(7))
    ]
    assert images[0].tobytes() == images[1].tobytes() == images[2].tobytes()


def test_what_is_no_number_is_left_alone():
    for value in ("3", None, [1, "a"], np.ones(3), {"a": 1}):
        assert plain(value) is value or plain(value) == value
