"""Every block family and AdaLN variant, in training and in generation, in every dtype."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from tests.golden_data import GOLDEN
from tests.product import product
from tests.tiny_models import draw, text, tiny_config, tiny_model

MANIFEST = json.loads((GOLDEN / "manifest-0.7b/transformer.json").read_text())
VARIANTS = json.loads((GOLDEN / "manifest-0.7b/transformer_variants.json").read_text())["variants"]
TRAINING_ONLY = "attn_bias_for_masking"


@functools.cache
def published() -> dict[str, list[int]]:
    return shapes_on_meta(HARTForT2IConfig(**MANIFEST["config"]))


def shapes_on_meta(config: HARTForT2IConfig, model_class=HARTForT2I) -> dict[str, list[int]]:
    with torch.device("meta"):
        model = model_class(config)
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("model_class", [HARTForT2I, HARTForT2IEnhanced])
def test_state_dict_of_the_published_size(model_class):
    config = HARTForT2IConfig(**MANIFEST["config"])
    expected = {name: about["shape"] for name, about in MANIFEST["tensors"].items()}
    assert expected.pop(TRAINING_ONLY) == [1, 1, 9750, 9750]
    assert shapes_on_meta(config, model_class) == expected
    with torch.device("meta"):
        model = model_class(config)
    assert sum(p.numel() for p in model.parameters()) == MANIFEST["parameter_counts"]["all"]


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_of_each_variant(name):
    changes = dict(part.split("=") for part in name.split(", "))
    values = {"True": True, "False": False}
    overrides = {key: values.get(value, value) for key, value in changes.items()}
    base = published()
    found = shapes_on_meta(HARTForT2IConfig(**{**MANIFEST["config"], **overrides}))
    about = VARIANTS[name]
    first_block = {k for k in found if not k.startswith("blocks.") or k.startswith("blocks.0.")}
    assert {k: found[k] for k in first_block - base.keys()} == {
        k: v["shape"] for k, v in about["added"].items()
    }
    gone = {k for k in base.keys() - found.keys() if not k.startswith("blocks.") or "s.0." in k}
    assert gone == set(about["removed"])


@pytest.mark.parametrize(
    "options",
    [
        {"use_timestep_embed": False},
        {"attn_type": "gpt2", "use_timestep_embed": False},
        {"attn_type": "gpt2", "mlp_type": "gpt2", "shared_aln": True},
    ],
    ids=str,
)
def test_variants_that_the_engines_tests_lack_generate(options):
    images = draw(tiny_model(HARTForT2I, **options), 2, num_maskgit_iters=2)
    assert images.shape == (2, 3, 14, 14)
    assert images.isfinite().all()
    assert not images[0].equal(images[1])


def test_gpt2_positions_reach_every_stage():
    """Learned positions are the only ones gpt2 attention has: changing one changes the image."""
    model = tiny_model(HARTForT2I, attn_type="gpt2")
    before = draw(model)
    with torch.no_grad():
        begin, _ = model.begin_ends[3]
        model.pos_1LC[:, begin] += 5
    assert not draw(model).equal(before)


def cross_attending(**overrides) -> HARTForT2I:
    model = tiny_model(HARTForT2I, use_cross_attn=True, **overrides)
    with torch.no_grad():
        for block in model.blocks:
            torch.nn.init.normal_(block.cross_attn.proj.weight, std=0.3)
    return model


@pytest.mark.parametrize("attn_type", ["llama", "gpt2"])
def test_cross_attention_stays_within_its_row(attn_type):
    """The public code mixes the rows of a batch; here an image ignores the other prompts."""
    model = cross_attending(attn_type=attn_type)
    both = text(model, 2)
    other = {name: tensor.clone() for name, tensor in both.items()}
    other["label_B"][1] = torch.randn_like(other["label_B"][1])
    first, second = draw(model, 2, **both), draw(model, 2, **other)
    torch.testing.assert_close(first[0], second[0], atol=1e-5, rtol=0)
    assert not torch.allclose(first[1], second[1], atol=1e-3)


def test_cross_attention_ignores_padding():
    model = cross_attending()
    block, rows = model.blocks[0], 2
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    x, cond = torch.randn(rows, 9, model.C), torch.randn(rows, 6, model.C)
    changed = cond.clone()
    changed[0, 3:] += 1
    with torch.no_grad():
        out = block.cross_attn(x, cond, mask)
        assert out.equal(block.cross_attn(x, changed, mask))


@product(attn_type=["llama", "gpt2"], cross=[False, True])
def test_training_pass_of_every_family(attn_type, cross):
    model = tiny_model(HARTForT2I, attn_type=attn_type, use_cross_attn=cross)
    sides = model.patch_nums
    ids = [torch.randint(0, 24, (2, side**2)) for side in sides]
    maps = model.vae_quant_proxy[0].idxBl_to_var_input(ids)
    conditions = text(model, 2)
    logits, diff_loss, (rows, _) = model(
        conditions["label_B"],
        maps,
        conditions["context_position_ids"],
        conditions["context_mask"],
        torch.randn(2, sides[-1] ** 2, 4),
        ids[-1],
    )
    assert logits.shape == (2, 1 + sum(s**2 for s in sides[1:-1]) + len(rows) // 2, 24)
    (logits.square().mean() + diff_loss).backward()
    assert model.blocks[0].attn.proj.weight.grad.abs().sum() > 0
    assert model.context_embed.weight.grad is not None


@product(dtype=[torch.bfloat16, torch.float16], attn_type=["llama", "gpt2"])
def test_half_precision_weights(dtype, attn_type):
    model = tiny_model(HARTForT2IEnhanced, attn_type=attn_type).to(dtype)
    assert model.vae_proxy[0].decoder.conv_in.weight.dtype == dtype
    assert draw(model, num_maskgit_iters=2).isfinite().all()


def test_autocast_over_float32_weights():
    model = tiny_model(HARTForT2I)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert draw(model).isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda(dtype):
    model = tiny_model(HARTForT2IEnhanced).to("cuda", dtype)
    image = draw(model, 2)
    assert image.is_cuda
    if dtype == torch.float32:
        cpu = draw(tiny_model(HARTForT2IEnhanced), 2)
        torch.testing.assert_close(image.cpu(), cpu, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patch_nums", (2, 3)),
        ("patch_nums", (1,)),
        ("patch_nums", (1, 3, 3)),
        ("patch_nums", 5),
        ("patch_nums", "12"),
        ("patch_nums", (1, 2.5)),
        ("context_token", 0),
        ("depth", "6"),
        ("embed_dim", None),
        ("num_heads", True),
    ],
)
def test_impossible_geometry_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        HARTForT2I(tiny_config(**{field: value}))


@pytest.mark.parametrize("field", ["attn_type", "mlp_type"])
def test_unknown_family_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be 'llama' or 'gpt2', got 'mamba'"):
        HARTForT2I(tiny_config(**{field: "mamba"}))
