"""Wrappers around the whole model: the same pictures, reuse and tables, or an open refusal."""

from __future__ import annotations

import pytest
import torch

from hart.engine import Engine
from hart.evaluation.random_weights import RandomTextEncoder, WordTokenizer
from hart.modules.models.transformer.wrappers import innermost
from hart.pipeline import HARTPipeline, VARPipeline
from tests.product import product
from tests.wrapped.models import FAMILIES, HART, arguments, assert_same, build, draw

peft = pytest.importorskip("peft")


class Forwarding:
    """What users write: not a module, and under a name of its own."""

    def __init__(self, wrapped) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name):
        return getattr(self.__dict__["wrapped"], name)


class ForwardingModule(torch.nn.Module):
    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class Holder(torch.nn.Module):
    """As ``DistributedDataParallel``: forwards nothing."""

    def __init__(self, module) -> None:
        super().__init__()
        self.module = module


WRAPPERS = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "forwarding": Forwarding,
    "forwarding-module": ForwardingModule,
    "holder": Holder,
    "data-parallel": torch.nn.DataParallel,
    "nested": lambda model: Holder(torch.compile(Forwarding(model).wrapped, backend="eager")),
}


def pipeline_of(model):
    if hasattr(innermost(model), "num_classes"):
        return VARPipeline(model)
    width = innermost(model).context_dim
    encoder = RandomTextEncoder(width, torch.Generator().manual_seed(2))
    return HARTPipeline(model, encoder, WordTokenizer(), system_prompt="")


@product(3, family=["hart-llama", "var"], wrapper=[*WRAPPERS], engine=[False, True])
def test_a_pipeline_with_a_wrapped_model_draws_counts_and_calibrates_as_without(
    family, wrapper, engine
):
    asked = ["a fox", "two boats"] if family in HART else [1, 2]
    found = []
    for wrap in (lambda model: model, WRAPPERS[wrapper]):
        pipeline = pipeline_of(wrap(build(family)))
        pipeline.use_engine = engine
        images = [image.tobytes() for image in pipeline(asked, quiet=True).images]
        calls = pipeline.transformer.cache_statistics.calls()
        pipeline.transformer.clear_similarity_data()
        tables = pipeline.calibrate(asked, quiet=True)
        assert not pipeline.transformer.calibration
        found.append((images, calls, tables))
    assert found[0] == found[1]
    assert found[0][2].images == 2


def test_a_wrapper_can_take_the_models_place_and_stays_there():
    pipeline = pipeline_of(build("hart-llama"))
    expected = pipeline("a fox", quiet=True).images[0].tobytes()
    pipeline.model = wrapped = Forwarding(pipeline.model)
    assert pipeline.model is wrapped
    assert pipeline.transformer is wrapped.wrapped
    pipeline.model.set_cache_config("original")
    assert pipeline("a fox", quiet=True).images[0].tobytes() == expected
    adapted = pipeline.model = peft.get_peft_model(
        pipeline.transformer, peft.LoraConfig(r=2, target_modules=["qkv_proj"])
    )
    assert pipeline.model is adapted
    assert pipeline("a fox", quiet=True).images[0].tobytes() == expected  # it starts without effect
    pipeline.model = adapted.merge_and_unload()
    assert pipeline("a fox", quiet=True).images[0].tobytes() == expected


@pytest.mark.parametrize("wrapper", ["compiled", "forwarding", "forwarding-module"])
def test_a_wrapped_autoencoder(wrapper):
    expected, model = draw(build("hart-llama"), engine=False), build("hart-llama")
    model.attach_autoencoder(WRAPPERS[wrapper](model.vae_proxy[0]))
    for engine in (False, True):
        assert_same(draw(model, engine), expected)


def test_a_compiled_diffusion_head():
    expected, model = draw(build("hart-llama"), engine=False), build("hart-llama")
    model.diffloss = torch.compile(model.diffloss, backend="eager")
    for engine in (False, True):
        assert_same(draw(model, engine), expected)


def test_a_wrappers_own_generation_is_called():
    class Counting(Forwarding):
        calls = 0

        def generate_feature_map(self, *args, **kwargs):
            self.calls += 1
            return self.wrapped.generate_feature_map(*args, **kwargs)

    pipeline = pipeline_of(Counting(build("hart-llama")))
    pipeline("a fox", quiet=True)
    assert pipeline.model.calls == 1


@pytest.mark.parametrize("name", ["calibration", "similarity", "use_cache", "cache_config"])
def test_state_that_would_stay_on_a_wrapper_is_refused(name):
    pipeline = pipeline_of(Forwarding(build("hart-llama")))
    setattr(pipeline.model, name, None)
    with pytest.raises(AttributeError, match=f"{name} was set on a Forwarding"):
        pipeline("a fox", quiet=True)
    with pytest.raises(AttributeError, match=r"pipeline\.transformer"):
        draw(pipeline.model, engine=True)


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), Holder(torch.nn.Linear(2, 2)), object()])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(TypeError, match=r"no HART or VAR transformer.*\.module"):
        HARTPipeline(thing, None, None)


@product(2, family=sorted(FAMILIES, key=len))
def test_an_engine_used_again_after_another_configuration_counts_one_generation(family):
    model = build(family)
    engine = Engine(model)
    for preset in ("original", "ultra-fast", "fastvar", "no-cache", "ultra-fast"):
        model.set_cache_config(preset)
        found = []
        for steps in (engine, Engine(model), model):
            model.reset_cache_statistics()
            model.generate_feature_map(1, steps=steps, **arguments(model, 1))
            found.append(model.cache_statistics.calls())
        assert found[0] == found[1] == found[2]
