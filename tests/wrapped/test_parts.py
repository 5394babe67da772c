"""What is put on or in the place of a part of the model is called, by the engine as without it."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from hart.modules.diffusion.network import SimpleMLPAdaLN
from hart.modules.models.transformer.execution.bare import (
    blocks_are_bare,
    decoder_is_bare,
    denoiser_is_bare,
    head_is_bare,
)
from hart.modules.networks.basic_hart import LlamaAttention, LlamaMLP
from tests.product import product
from tests.wrapped.models import FAMILIES, HART, assert_changed, assert_same, build, draw, put


def bent(x: torch.Tensor) -> torch.Tensor:
    """A change that no norm undoes and that is not linear."""
    return x + torch.sin(2 * x)


PARTS = (
    "blocks.1",
    "blocks.1.attn",
    "blocks.1.attn.proj",
    "blocks.1.ffn",
    "blocks.1.ln_wo_grad",
    "word_embed",
    "head",
    "head_nm",
    "head_nm.ada_lin.1",
)
HART_PARTS = (
    "context_embed",
    "decoder_norm",
    "diffloss.net",
    "diffloss.net.time_embed",
    "diffloss.net.cond_embed",
    "diffloss.net.res_blocks.0",
    "diffloss.net.res_blocks.0.mlp.0",
    "diffloss.net.final_layer",
)
AUTOENCODER_PARTS = (
    "decoder",
    "decoder.mid",
    "decoder.up.0.block.0",
    "decoder.up.0.block.0.conv1",
    "decoder.up.1.upsample",
    "decoder.conv_out",
    "post_quant_conv",
    "quantize.embedding",
    "quantize.quant_resi.qresi_ls.0",
)


def parts_of(family: str) -> list[str]:
    attention = "qkv_proj" if family in ("hart-llama", "hart-shared-aln") else "mat_qkv"
    parts = [*PARTS, f"blocks.1.attn.{attention}"]
    return [*parts, *HART_PARTS] if family in HART else [*parts, "class_emb"]


def hook(module: nn.Module) -> None:
    module.register_forward_hook(lambda module, arguments, out: bent(out))


def pre_hook(module: nn.Module) -> None:
    module.register_forward_pre_hook(
        lambda module, arguments: (
            bent(arguments[0]) if arguments[0].is_floating_point() else arguments[0] // 2,
            *arguments[1:],
        )
    )


def replaced_forward(module: nn.Module) -> None:
    original = module.forward
    module.forward = lambda *args, **kwargs: bent(original(*args, **kwargs))


def subclass(module: nn.Module) -> None:
    class Scaled(type(module)):
        def forward(self, *args, **kwargs):
            return bent(super().forward(*args, **kwargs))

    module.__class__ = Scaled


def in_place_compiled(module: nn.Module) -> None:
    """As ``module.compile()`` leaves it, with a compiler that changes the result."""
    call = module._call_impl
    module._compiled_call_impl = lambda *args, **kwargs: bent(call(*args, **kwargs))


class Around(nn.Module):
    """In a module's place; forwards no attributes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return bent(self.inner(*args, **kwargs))


CHANGES = (hook, pre_hook, replaced_forward, subclass, in_place_compiled, Around)


def change(root: nn.Module, path: str, turn: int) -> None:
    """Each part gets one of the changes; in the next turn it gets the next one."""
    how = CHANGES[turn % len(CHANGES)]
    if how is Around:
        put(root, path, Around(root.get_submodule(path)))
    else:
        how(root.get_submodule(path))


@functools.cache
def unchanged(family: str):
    return draw(build(family), engine=False)


def assert_acts(family: str, model, place: str) -> None:
    plain = draw(model, engine=False)
    try:
        assert_changed(plain, unchanged(family))
        assert_same(draw(model, engine=True), plain)
    except AssertionError as error:
        raise AssertionError(f"{place} of {family}: {error}") from error


@product(2, family=sorted(FAMILIES, key=len), turn=range(len(CHANGES)))
def test_a_change_of_a_part_acts_with_and_without_engine(family, turn):
    for i, path in enumerate(parts_of(family), turn):
        model = build(family)
        change(model, path, i)
        assert_acts(family, model, path)


@product(1, turn=range(len(CHANGES)))
def test_a_change_of_a_part_of_the_autoencoder_acts_with_and_without_engine(turn):
    for i, path in enumerate(AUTOENCODER_PARTS, turn):
        model = build("hart-llama")
        change(model.vae_proxy[0], path, i)
        assert_acts("hart-llama", model, path)


@pytest.mark.parametrize("name", ["modulation", "norm_and_modulate", "_feed_forward"])
def test_a_replaced_method_of_a_block(name):
    model = build("hart-gpt2-adaln")
    original = getattr(model.blocks[1], name)

    def replaced(*args, **kwargs):
        out = original(*args, **kwargs)
        return tuple(map(bent, out)) if isinstance(out, tuple) else bent(out)

    setattr(model.blocks[1], name, replaced)
    assert_acts("hart-gpt2-adaln", model, name)


@product(2, kind=[LlamaAttention, nn.Linear, LlamaMLP, SimpleMLPAdaLN])
def test_a_patched_class(kind, monkeypatch):
    expected, model, original = unchanged("hart-llama"), build("hart-llama"), kind.forward
    monkeypatch.setattr(
        kind, "forward", lambda self, *args, **kw: bent(original(self, *args, **kw))
    )
    plain = draw(model, engine=False)
    assert_changed(plain, expected)
    assert_same(draw(model, engine=True), plain)


@pytest.mark.parametrize("name", ["get_logits", "residual_condition", "run_blocks"])
def test_a_replaced_method_of_the_model(name):
    model = build("hart-llama")
    original = getattr(model, name)
    setattr(model, name, lambda *args: bent(original(*args)))
    assert_acts("hart-llama", model, name)


def swapped(model) -> None:
    model.blocks = nn.ModuleList(reversed(model.blocks))


def other_positions(model) -> None:
    model.blocks[1].attn.rotary_emb.scaling_factor = 3.0


def other_text_positions(model) -> None:
    model.blocks[1].attn.context_rotary_emb.base = 3.0


@pytest.mark.parametrize("alter", [swapped, other_positions, other_text_positions])
def test_blocks_in_another_place_or_with_positions_of_their_own(alter):
    model = build("hart-llama")
    alter(model)
    assert_acts("hart-llama", model, alter.__name__)


def test_a_block_less():
    model = build("var")
    del model.blocks[1]
    assert_same(draw(model, engine=True), draw(model, engine=False))


def test_a_decoder_that_pads_with_the_other_border():
    """As people do it for seamless tiles."""
    model = build("hart-llama")
    for module in model.vae_proxy[0].decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    assert_acts("hart-llama", model, "padding")


def test_a_diffusion_heads_own_way_of_sampling():
    model = build("hart-llama")
    original = model.diffloss.sample
    model.diffloss.sample = lambda z, temperature=1.0, cfg=1.0, noise_source=None: bent(
        original(z, temperature, cfg, noise_source=noise_source)
    )
    assert_acts("hart-llama", model, "sample")


@pytest.mark.parametrize("family", ["hart-llama", "var"])
def test_hooks_for_all_modules_act(family):
    expected, model = unchanged(family), build(family)

    def change_attention(module, arguments, out):
        return bent(out) if hasattr(module, "head_dim") else None

    handle = nn.modules.module.register_module_forward_hook(change_attention)
    try:
        plain = draw(model, engine=False)
        fast = draw(model, engine=True)
    finally:
        handle.remove()
    assert_changed(plain, expected)
    assert_same(fast, plain)
    assert_same(draw(model, engine=True), expected)


@pytest.mark.parametrize("family", ["hart-llama", "var"])
def test_hooks_that_only_look_see_the_same_with_the_engine(family):
    model = build(family)
    seen: list[tuple[str, tuple]] = []
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda module, _, out, name=name: seen.append((name, getattr(out, "shape", None)))
        )
        module.register_full_backward_hook(lambda *_: None)
    assert_same(draw(model, engine=False), unchanged(family))
    plain, seen[:] = list(seen), []
    assert_same(draw(model, engine=True), unchanged(family))
    assert plain
    assert seen == plain


def test_removed_hooks_give_the_engine_its_own_way_back():
    model = build("hart-llama")
    handle = model.blocks[0].ffn.register_forward_hook(lambda *_: None)
    assert not blocks_are_bare(model)
    handle.remove()
    assert blocks_are_bare(model)
    assert head_is_bare(model)
    assert denoiser_is_bare(model)
    assert decoder_is_bare(model.vae_proxy[0])


def test_a_model_in_training_is_left_to_its_blocks():
    assert not blocks_are_bare(build("hart-llama").train())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_hooks_of_blocks_act_in_training(checkpointing):
    model = build("var").train()
    model.gradient_checkpointing = checkpointing
    inputs = torch.tensor([1]), torch.randn(1, model.L - model.first_l, model.Cvae)
    torch.manual_seed(0)
    expected = model(*inputs)
    model.blocks[0].register_forward_hook(lambda module, arguments, out: bent(out))
    torch.manual_seed(0)
    assert (model(*inputs) - expected).abs().max() > 0.1


def test_every_family_is_bare_as_it_comes():
    for family in FAMILIES:
        assert blocks_are_bare(build(family)), family


def test_a_calibration_measures_what_a_hook_makes_of_an_output():
    tables = []
    for engine in (False, True):
        model = build("hart-llama")
        hook(model.blocks[1].ffn)
        model.clear_similarity_data()
        model.calibration = True
        draw(model, engine)
        tables.append(torch.tensor([model.similarity.attn, model.similarity.mlp]))
    torch.testing.assert_close(*tables, atol=1e-6, rtol=0)
    bare = build("hart-llama")
    bare.clear_similarity_data()
    bare.calibration = True
    draw(bare, engine=True)
    without = torch.tensor([bare.similarity.attn, bare.similarity.mlp])
    assert (without - tables[0]).abs().max() > 1e-3


def without_its_cache(block):
    original = block.forward
    block.forward = lambda *args, output=None, **kwargs: original(*args, **kwargs)


@pytest.mark.parametrize("engine", [False, True])
def test_a_calibration_that_saw_no_call_is_an_error(engine):
    model = build("hart-llama")
    for block in model.blocks:
        without_its_cache(block)
    before = copy.deepcopy(model.similarity)
    model.calibration = True
    with pytest.raises(RuntimeError, match="calibration measured nothing"):
        draw(model, engine)
    assert model.similarity == before
    model.calibration = False
    draw(model, engine)


def test_a_calibration_names_the_blocks_that_it_did_not_see():
    model = build("hart-llama")
    without_its_cache(model.blocks[1])
    model.clear_similarity_data()
    model.calibration = True
    with pytest.warns(UserWarning, match=r"blocks \[1\] were not measured"):
        draw(model, engine=True)
    assert any(model.similarity.attn[0])
    assert not any(model.similarity.attn[1])
