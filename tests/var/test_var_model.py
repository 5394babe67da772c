"""What the reference numbers do not cover: shared AdaLN, other schedules, bad arguments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hart.modules.models.autoencoder.configuration import HARTAutoEncoderConfig
from hart.modules.models.autoencoder.vqvae import VQVAE
from hart.modules.models.transformer.configuration_var import VARForC2IConfig
from hart.modules.models.transformer.var_transformer_c2i import VARForC2I
from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from tests.copies import copied
from tests.tiny_models import fill

SIDES = (1, 2, 3, 5)


@copied
def tiny_var(model_class=VARForC2IEnhanced, seed: int = 3, **overrides):
    fields = {
        "num_classes": 5,
        "depth": 3,
        "embed_dim": 32,
        "num_heads": 2,
        "patch_nums": SIDES,
        "vocab_size": 24,
        "z_channels": 4,
    }
    torch.manual_seed(seed)
    config = VARForC2IConfig(**{**fields, **overrides})
    model = model_class(config).eval()
    model.init_weights(init_std=0.2, init_head=1.0, init_adaln_gamma=0.5)
    vae = HARTAutoEncoderConfig(
        vocab_size=24, z_channels=4, ch=32, ch_mult=(1, 1), v_patch_nums=config.patch_nums
    )
    model.attach_autoencoder(VQVAE(vae).eval())
    return model


def test_shared_modulation_is_one_projection_and_a_table_per_block():
    model = tiny_var(shared_aln=True)
    names = {key for key in model.state_dict() if "ada" in key}
    blocks = {f"blocks.{i}.ada_gss" for i in range(3)}
    shared = {f"shared_ada_lin.1.{name}" for name in ("weight", "bias")}
    assert names == blocks | shared | {f"head_nm.ada_lin.1.{name}" for name in ("weight", "bias")}
    block, x = model.blocks[1], torch.randn(2, 4, 32)
    with torch.no_grad():
        cond = model.class_emb(torch.tensor([1, 4]))
        six = model.shared_ada_lin[1].weight @ F.silu(cond).T
        six = (six.T + model.shared_ada_lin[1].bias).view(2, 6, 32) + block.ada_gss[0]
        gamma1, gamma2, scale1, scale2, shift1, shift2 = six[:, None].unbind(2)

        def norm(t):
            return F.layer_norm(t, (32,), eps=1e-6)

        expected = x + gamma1 * block.attn(norm(x) * (1 + scale1) + shift1, None)
        ffn = block.ffn(norm(expected) * (1 + scale2) + shift2)
        actual = block(x, model.shared_ada_lin(cond), None)
        torch.testing.assert_close(actual, expected + gamma2 * ffn, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [{}, {"shared_aln": True}, {"patch_nums": (2, 3, 5)}])
def test_teacher_forcing_predicts_what_the_sampler_saw(variant, monkeypatch):
    """Unguided, and with the sampler's own tokens, both passes have the same logits."""
    model = tiny_var(**variant)
    ids, logits = [], []
    draw = model._draw_tokens

    def recording(guided, run, si, ratio):
        logits.append(guided.clone())
        drawn = draw(guided, run, si, ratio)
        ids.append(drawn[0])
        return drawn

    monkeypatch.setattr(model, "_draw_tokens", recording)
    model.generate_feature_map(2, [1, 3], 7, cfg=0.0)
    inputs = model.vae_quant_proxy[0].idxBl_to_var_input(ids)
    with torch.no_grad():
        forced = model(torch.tensor([1, 3]), inputs)
    torch.testing.assert_close(forced, torch.cat(logits, dim=1), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", [{"shared_aln": True}, {"patch_nums": (2, 3, 5)}])
def test_caching_works_in_every_variant(variant):
    model = tiny_var(**variant)
    plain = tiny_var(VARForC2I, **variant)
    off = model.generate_feature_map(2, [1, 3], 7)
    assert off.equal(plain.generate_feature_map(2, [1, 3], 7))
    fill(model, 0.9)
    model.set_cache_config("aggressive")
    model.set_cache_config(replace(model.cache_config, compute_mlp_layers=()))
    assert not model.generate_feature_map(2, [1, 3], 7).equal(off)
    assert model.get_cache_statistics()["saved_share"] > 0.3


def test_drawn_classes_and_no_class():
    model = tiny_var()
    drawn = model.generate_feature_map(3, None, 7)
    assert drawn.shape == (3, 4, 5, 5)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    assert model.generate_feature_map(2, None, generator=generators).shape == (2, 4, 5, 5)
    none = model.generate_feature_map(1, -1, 7, cfg=3.0)
    assert none.equal(model.generate_feature_map(1, [5], 7, cfg=0.0))  # nothing to guide towards


@pytest.mark.parametrize(
    ("B", "label", "message"),
    [
        (0, [], "B must be an integer from 1"),
        (2, [1], "must hold 2 integers"),
        (1, [6], r"within 0 .. 5 \(5: no class\), got 6"),
        (1, torch.tensor([-1]), "got -1"),
        (1, torch.tensor([1.0]), "integers"),
    ],
)
def test_bad_classes(B, label, message):
    with pytest.raises(ValueError, match=message):
        tiny_var().generate_feature_map(B, label)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_nums": (3,)}, "patch_nums must increase and have at least 2 stages"),
        ({"attn_type": "llama"}, "attn_type must be 'gpt2' for VAR"),
        ({"disable_aln": True}, "disable_aln must be False"),
    ],
)
def test_bad_configurations(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_var(**fields)


def test_half_precision_weights_draw():
    model = tiny_var().to(torch.bfloat16)
    f_hat = model.generate_feature_map(1, [2], 7)
    assert f_hat.dtype == torch.bfloat16
    assert torch.isfinite(f_hat.float()).all()
