"""Adapters, quantised weights, offload and compiled parts: the same reuse, and they take part."""

from __future__ import annotations

import importlib.util
import warnings
from types import SimpleNamespace

import accelerate
import pytest
import torch
from torch import nn

from hart.evaluation.random_weights import TEXT_VOCABULARY, WordTokenizer
from hart.modules.models.transformer.execution.bare import blocks_are_bare
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.networks.caching.config import CacheConfig
from hart.utils import encode_prompts
from hart.utils.adapted import compute_device
from tests.product import product
from tests.tiny_models import HART_SIDES, text, tiny_model
from tests.wrapped.models import FAMILIES, HART, assert_changed, assert_same, build, draw, put

peft = pytest.importorskip("peft")


def linears(model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def with_lora(model, targets=None, strength: float = 1.0):
    """LoRA that does something at once."""
    torch.manual_seed(5)
    config = peft.LoraConfig(
        r=2, lora_alpha=strength, target_modules=targets or linears(model), init_lora_weights=False
    )
    return peft.get_peft_model(model, config)


@product(1, family=sorted(FAMILIES, key=len))
def test_lora_on_every_linear_layer_acts_and_merging_it_changes_nothing(family):
    expected, model = draw(build(family), engine=False), build(family)
    adapted = with_lora(model)
    assert not blocks_are_bare(model)
    plain = draw(adapted, engine=False)
    assert_changed(plain, expected)
    assert_same(draw(adapted, engine=True), plain)
    adapted.merge_adapter()
    assert_same(draw(adapted, engine=True), plain)
    adapted.unmerge_adapter()
    with adapted.disable_adapter():
        assert_same(draw(adapted, engine=True), expected)
    merged = adapted.merge_and_unload()
    assert blocks_are_bare(merged)
    for engine in (False, True):
        assert_same(draw(merged, engine), plain)


@product(1, layer=["qkv_proj", "mat_qkv", "proj", "down_proj", "fc2", "ada_lin.1"])
def test_lora_on_one_kind_of_layer(layer):
    family = "hart-llama" if layer in ("qkv_proj", "down_proj", "proj") else "hart-gpt2-adaln"
    expected, model = draw(build(family), engine=False), build(family)
    names = [name for name in linears(model) if f".{name}".endswith(f".{layer}")]
    adapted = with_lora(model, names, strength=8)
    plain = draw(adapted, engine=False)
    assert_changed(plain, expected)
    assert_same(draw(adapted, engine=True), plain)


@pytest.mark.parametrize("family", ["hart-llama", "var"])
def test_the_tokens_that_stay_pass_the_adapter_too(family):
    found = []
    for merge in (False, True):
        model = build(family)
        adapted = with_lora(model)
        model.set_cache_config(CacheConfig([9], [4], prune_stages={16: 0.5}))
        if merge:
            adapted = adapted.merge_and_unload()
        found += [draw(adapted, engine) for engine in (False, True)]
    for other in found[1:]:
        assert_same(other, found[0])


@product(2, family=sorted(FAMILIES, key=len))
def test_every_adapter_gets_a_gradient_and_only_adapters(family):
    if family in HART:
        model = tiny_model(HARTForT2I, depth=2, patch_nums=HART_SIDES, **HART[family])
        arguments = text(model, 2)
        inputs = {
            "context": arguments["label_B"],
            "x_BLCv_wo_first_l": torch.randn(2, model.L - 1, model.Cvae),
            "context_position_ids": arguments["context_position_ids"],
            "context_mask": arguments["context_mask"],
            "last_layer_gt": torch.randn(2, model.last_level_pns, model.Cvae),
            "last_layer_gt_discrete": torch.zeros(2, model.last_level_pns, dtype=torch.long),
        }
    else:
        model = build(family)
        length = model.L - model.first_l
        inputs = {
            "label_B": torch.tensor([1, 2]),
            "x_BLCv_wo_first_l": torch.randn(2, length, model.Cvae),
        }
    # Behind a projection that starts as zero there is no gradient yet.
    for parameter in model.parameters():
        if parameter.ndim == 2 and not parameter.any():
            nn.init.normal_(parameter.data, std=0.2)
    adapted = with_lora(model)
    out = adapted(**inputs)
    loss = out.square().mean() if torch.is_tensor(out) else out[0].square().mean() + out[1]
    loss.backward()
    for name, parameter in adapted.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
        assert parameter.grad is None or parameter.grad.any(), name


class Int8Linear(nn.Linear):
    """As quantisers make them: no weight of a dtype that is computed in."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        scale = linear.weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-6) / 127
        del self.weight
        self.register_buffer("weight", (linear.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


class HiddenLinear(nn.Module):
    """A layer that shows no weight at all."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._layer = [Int8Linear(linear)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._layer[0](x)


@product(2, family=FAMILIES, replacement=[Int8Linear, HiddenLinear])
def test_replaced_linear_layers_draw_as_ordinary_ones_of_the_same_values(family, replacement):
    quantised, ordinary = build(family), build(family)
    for name in linears(quantised):
        layer = Int8Linear(quantised.get_submodule(name))
        put(quantised, name, replacement(quantised.get_submodule(name)))
        ordinary.get_submodule(name).weight.copy_(layer.weight * layer.scale)
    expected = draw(ordinary, engine=True)
    for engine in (False, True):
        assert_same(draw(quantised, engine), expected)
    assert quantised.weight_fingerprint() is None


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not there")
@product(family=FAMILIES, dynamic=[False, True])
def test_weights_quantised_by_torchao(family, dynamic):
    from torchao import quantization

    kinds = (
        quantization.Int8WeightOnlyConfig,
        quantization.Int8DynamicActivationInt8WeightConfig,
    )
    model = build(family)
    quantization.quantize_(model, kinds[dynamic]())
    plain = draw(model, engine=False)
    assert_changed(plain, draw(build(family), engine=False))
    assert_same(draw(model, engine=True), plain)


def offloaded(model, folder, kind: str):
    """By one of ``accelerate``'s ways, computing on the CPU."""
    cpu = torch.device("cpu")
    if kind == "cpu":
        return accelerate.cpu_offload(model, cpu)
    if kind == "cpu and buffers":
        return accelerate.cpu_offload(model, cpu, offload_buffers=True)
    if kind == "disk":
        return accelerate.disk_offload(model, folder, cpu)
    if kind == "whole":
        return accelerate.cpu_offload_with_hook(model, cpu)[0]
    places = {name: "cpu" for name, _ in model.named_parameters(recurse=False)}
    places |= {name: "cpu" for name, _ in model.named_buffers(recurse=False)}
    places |= {name: "cpu" for name, _ in model.named_children() if name != "blocks"}
    places |= {"blocks.0": "cpu", "blocks.1": "disk"}
    return accelerate.dispatch_model(
        model, places, main_device=cpu, offload_dir=folder, force_hooks=True
    )


@product(
    3,
    family=["hart-llama", "hart-gpt2-adaln", "var-shared-aln"],
    kind=["cpu", "cpu and buffers", "disk", "whole", "dispatched"],
)
def test_offloaded_models_draw_reuse_and_calibrate_as_others(family, kind, tmp_path):
    ordinary = build(family)
    expected = draw(ordinary, engine=False)
    model = offloaded(build(family), str(tmp_path), kind)
    assert any(p.is_meta for p in model.parameters()) == (kind != "whole")
    assert model.device == torch.device("cpu")
    for engine in (False, True):
        assert_same(draw(model, engine), expected)
    assert model.weight_fingerprint() == ordinary.weight_fingerprint()
    for one in (ordinary, model):
        one.clear_similarity_data()
        one.calibration = True
        draw(one, engine=False)
    assert model.similarity == ordinary.similarity
    assert any(p.is_meta for p in model.parameters()) == (kind != "whole")


def test_offload_of_single_parts():
    expected = None
    for part in (None, "blocks.0", "blocks.1.attn", "word_embed", "head", "diffloss"):
        model = build("hart-llama")
        model.set_cache_config(CacheConfig([9, 16], [4, 9]))
        if part is not None:
            accelerate.cpu_offload(model.get_submodule(part), torch.device("cpu"))
            assert model.device == torch.device("cpu")
        drawn = draw(model, engine=True)
        expected = expected or drawn
        assert_same(drawn, expected)


def test_an_offloaded_autoencoder():
    expected = draw(build("hart-llama"), engine=False)
    model = build("hart-llama")
    accelerate.cpu_offload(model.vae_proxy[0], torch.device("cpu"))
    for engine in (False, True):
        assert_same(draw(model, engine), expected)


def test_an_offloaded_text_encoder():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(TEXT_VOCABULARY, 12)

        def forward(self, ids, attention_mask=None, output_hidden_states=True):
            return SimpleNamespace(hidden_states=(self.embed(ids),))

    encoder = Encoder()
    plain = encode_prompts(["a fox"], encoder, WordTokenizer(), 6)
    accelerate.cpu_offload(encoder, torch.device("cpu"))
    for found, expected in zip(
        encode_prompts(["a fox"], encoder, WordTokenizer(), 6), plain, strict=True
    ):
        assert found.equal(expected)


def test_where_a_module_computes():
    layer = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert compute_device(layer) == torch.device("cpu")
    assert compute_device(layer.to("meta")) == torch.device("meta")
    layer = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    accelerate.cpu_offload(layer[0], torch.device("cpu"))
    assert compute_device(layer) == torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["blocks.0", "blocks.0.attn", "blocks.0.ffn", "diffloss.net"])
def test_compiled_parts_draw_as_others(part):
    torch.compiler.reset()
    expected, model = draw(build("hart-llama"), engine=False), build("hart-llama")
    put(model, part, torch.compile(model.get_submodule(part), backend="eager"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's remarks
        for engine in (False, True):
            assert_same(draw(model, engine), expected)


@pytest.mark.slow
def test_a_block_compiled_by_aot_autograd():
    torch.compiler.reset()
    expected, model = draw(build("var"), engine=False), build("var")
    model.blocks[0] = torch.compile(model.blocks[0], backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(draw(model, engine=True), expected)
