"""The training recipe on a tiny scale: it resumes exactly, and its exact steps are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hart.demo.scene import ATTRIBUTES, is_held_out
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.autoencoder.quantize.maps import downsample
from hart.modules.models.autoencoder.quantize.var_quantize_multiple_res import nearest_code
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from recipes.demo.autoencoder import (
    PATCH_NUMS,
    coarsened,
    contrast_weights,
    demo_autoencoder_config,
    reconstruction_loss,
    rescale_latents,
    stage_residuals,
    start_codebook,
)
from recipes.demo.latents import LatentData, tokens_with_mistakes, training_scenes
from recipes.demo.loop import Phase, run_phase
from recipes.demo.muon import ConvMuon, muon_and_adamw, orthogonalised
from recipes.demo.teacher_forcing import TeacherForcedPass, keep_tokens
from recipes.demo.transformer import EncodedText, deepened, demo_transformer_config

pytestmark = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="training needs torch.optim.Muon (torch 2.9)"
)


def regression(module: nn.Module):
    def loss(step: int, rng: np.random.Generator):
        x = torch.from_numpy(rng.normal(size=(8, 3))).float()
        error = (module(x + 0.1 * torch.randn_like(x)) - x.sum(dim=1, keepdim=True)).square().mean()
        return error, {"error": error.item()}

    return loss


def fresh_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def optimizers(module: nn.Module):
    return muon_and_adamw(module, [module[0].weight], 0.01, 0.01)


class InterruptedTrainingError(Exception):
    pass


def test_an_interrupted_phase_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.demo.loop.SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    phase = Phase("toy", steps=12, learning_rate=0.01, seed=4)
    whole = fresh_module()
    run_phase(phase, whole, regression(whole), tmp_path / "a", True, optimizers(whole))

    broken = fresh_module()
    loss = regression(broken)

    def failing(step, rng):
        if step == 7:
            raise InterruptedTrainingError
        return loss(step, rng)

    with pytest.raises(InterruptedTrainingError):
        run_phase(phase, broken, failing, tmp_path / "b", True, optimizers(broken))
    resumed = fresh_module()
    report = run_phase(
        phase, resumed, regression(resumed), tmp_path / "b", True, optimizers(resumed)
    )
    assert report.steps == 12
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert a.equal(b)


def test_a_finished_phase_is_not_trained_again(tmp_path):
    phase = Phase("toy", steps=3, learning_rate=0.01)
    module = fresh_module()
    run_phase(phase, module, regression(module), tmp_path, True)
    again = fresh_module()
    run_phase(phase, again, lambda step, rng: pytest.fail("trained again"), tmp_path, True)
    assert again[0].weight.equal(module[0].weight)


def test_conv_muon_updates_the_convolution_itself():
    conv = nn.Conv2d(4, 8, 3)
    before = conv.weight.detach().clone()
    optimizer = ConvMuon([conv.weight], lr=0.1)
    conv(torch.randn(2, 4, 5, 5)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert not conv.weight.equal(before)
    assert conv.weight.grad is None


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return HARTAutoEncoder(demo_autoencoder_config()).eval().requires_grad_(False)


@pytest.fixture
def painted(monkeypatch):
    """Things of one colour each in place of the package's pictures."""

    def sprite(name: str, side: int) -> np.ndarray:
        thing = np.zeros((side, side, 4), np.float32)
        thing[side // 4 : -side // 4, side // 4 : -side // 4] = (0.1, 0.2, 0.3, 1.0)
        return thing

    monkeypatch.setattr("recipes.demo.render.sprite", sprite)


@pytest.fixture(scope="module")
def latents():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(12, 8, 4, 4, generator=generator)
    fine = torch.randn(12, 8, 36, 36, generator=generator)
    return nn.functional.interpolate(coarse, size=36, mode="bicubic") + 0.1 * fine


@pytest.mark.slow
def test_k_means_start_explains_most_of_the_latents(vae, latents):
    start_codebook(vae.quantize, latents)
    last = stage_residuals(vae.quantize, latents)[-1]
    assert len(last) == 12 * 1296
    assert last.square().mean() < 0.2 * latents.square().mean()


@pytest.mark.slow
def test_rescaling_changes_no_picture_and_fits_the_residuals(vae, latents):
    start_codebook(vae.quantize, latents)
    images = torch.rand(1, 3, 96, 96) * 2 - 1
    before = vae.decoder(vae.post_quant_conv(vae.quant_conv(vae.encoder(images))))
    ids_before = vae.quantize.f_to_idxBl_or_fhat(latents, to_fhat=False)
    factor = rescale_latents(vae, latents)
    after = vae.decoder(vae.post_quant_conv(vae.quant_conv(vae.encoder(images))))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    *ids, rest = vae.quantize.f_to_idxBl_and_frest(latents * factor)
    same = torch.cat([(a == b).flatten() for a, b in zip(ids, ids_before, strict=True)])
    assert same.float().mean() > 0.99
    residual = (rest - vae.quantize.embedding(ids[-1])).abs().flatten()
    assert residual.quantile(0.998).item() == pytest.approx(0.6, rel=0.02)


def test_latents_are_coarsened_to_each_pictures_own_grid():
    maps = torch.randn(3, 8, 36, 36, generator=torch.Generator().manual_seed(0))
    full, half, one = coarsened(maps, (36, 18, 1))
    assert torch.allclose(full, maps[0], atol=1e-6)  # a picture's map has 36 cells a side
    cells = torch.nn.functional.interpolate(maps[1:2], size=(18, 18), mode="area")
    resized = torch.nn.functional.interpolate(cells, size=(36, 36), mode="bicubic")
    assert torch.allclose(half, resized[0], atol=1e-6)
    assert torch.allclose(one, maps[2].mean(dim=(1, 2), keepdim=True).expand(-1, 36, 36), atol=1e-6)


def test_a_crop_is_coarsened_in_proportion_to_its_size():
    crop = torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(coarsened(crop, (36,)), crop, atol=1e-6)
    assert coarsened(crop, (1,)).std(dim=(2, 3)).max() < 1e-6


def test_scenes_are_encoded_once_and_read_back(vae, tmp_path, monkeypatch, painted):
    scenes = training_scenes(seed=3)[:3]
    data = LatentData(vae, tmp_path, scenes, True, "cpu")
    maps, shown = data.sample(np.random.default_rng(0), 5)
    assert maps.shape == (5, 8, 36, 36)
    assert set(shown) <= set(scenes)
    assert maps[0].equal(data.maps[scenes.index(shown[0])].float())
    monkeypatch.setattr(LatentData, "_encoded", None)  # a second run only reads
    assert LatentData(vae, tmp_path, scenes, True, "cpu").maps.equal(data.maps)


def test_training_scenes_are_all_that_are_not_held_out_in_the_seeds_order():
    scenes = training_scenes(seed=3)
    assert len(set(scenes)) == len(scenes)
    assert not any(is_held_out(scene) for scene in scenes)
    everything = np.prod([len(values) for values in ATTRIBUTES.values()])
    assert 0.88 * everything < len(scenes) < 0.92 * everything
    assert training_scenes(seed=3) == scenes != training_scenes(seed=4)


def test_without_noise_maps_become_the_quantizers_own_tokens(vae, latents):
    start_codebook(vae.quantize, latents, rounds=1)
    f = latents[:2].contiguous()
    tokens = tokens_with_mistakes(vae.quantize, f, len(PATCH_NUMS), torch.zeros(2))
    *ids, rest = vae.quantize.f_to_idxBl_and_frest(f)
    assert all(own.equal(expected) for own, expected in zip(tokens.wanted, ids, strict=True))
    torch.testing.assert_close(tokens.rest, rest)
    torch.testing.assert_close(tokens.inputs, vae.quantize.idxBl_to_var_input(ids))


def test_after_a_mistake_what_is_wanted_is_what_is_then_missing(vae, latents):
    start_codebook(vae.quantize, latents, rounds=1)
    f = latents[:2].contiguous()
    noise = torch.tensor([0.0, 0.8])
    noisy = tokens_with_mistakes(vae.quantize, f, 4, noise)
    clean = tokens_with_mistakes(vae.quantize, f, 4, torch.zeros(2))
    assert noisy.wanted[0].equal(clean.wanted[0])  # nothing is wrong before the first stage
    assert noisy.inputs[0].equal(clean.inputs[0])  # a picture without noise
    assert not noisy.inputs[1].equal(clean.inputs[1])
    last = noisy.inputs[1, -16:].T.reshape(8, 4, 4)  # the map so far, at the last stage's size
    missing = downsample(f[1:], (4, 4))[0] - last
    wanted = nearest_code(missing.flatten(1).T, vae.quantize.codes())
    assert (wanted == noisy.wanted[-1][1]).float().mean() > 0.9


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 3, 2, 2)])
def test_muon_moves_every_singular_value_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix.flatten(1)))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.fixture(scope="module")
def model(vae):
    torch.manual_seed(3)
    model = HARTForT2I(demo_transformer_config(vae, 128))
    model.init_weights(init_std=-1)
    model.attach_autoencoder(vae)
    model.cond_drop_rate = -torch.inf  # nothing is dropped
    return model.float().train()


def test_the_pass_on_kept_tokens_is_the_model_s_own_where_all_are_kept(vae, model, monkeypatch):
    off = torch.autocast("cpu", enabled=False)
    monkeypatch.setattr("recipes.demo.teacher_forcing.training_autocast", lambda device: off)
    ids = [torch.randint(2048, (2, side**2)) for side in PATCH_NUMS]
    maps = vae.quantize.idxBl_to_var_input(ids)
    context, positions = torch.randn(2, 32, 128), torch.arange(32).repeat(2, 1)
    kept = keep_tokens(PATCH_NUMS, (1.0,) * 9, 32)
    hidden, cond = TeacherForcedPass(model, compile_blocks=False)(context, positions, maps, kept)
    logits = model.get_logits(hidden, cond)
    own = model.early_logits(context, maps, positions, torch.ones(2, 32), 9)
    assert len(kept.segments) == 3  # both ways of attending are compared
    torch.testing.assert_close(logits, own, atol=1e-5, rtol=1e-4)


def test_a_deepened_model_starts_as_the_shallower_one(model):
    block = {
        name.removeprefix("blocks.0."): value
        for name, value in model.state_dict().items()
        if name.startswith("blocks.0.")
    }
    shallow = {f"blocks.{i}.{name}": i + value for i in range(4) for name, value in block.items()}
    grown = deepened({**shallow, "head.bias": torch.ones(1)}, 6)
    assert len(grown) == 6 * len(block) + 1
    for place, source in enumerate((0, 1, 1, 2, 2, 3)):
        for name in block:
            found, old = grown[f"blocks.{place}.{name}"], shallow[f"blocks.{source}.{name}"]
            silent = place in (2, 4) and name.startswith(("attn.proj", "ffn.down_proj"))
            assert found.equal(torch.zeros_like(old) if silent else old)


def test_a_share_of_a_stage_is_kept_and_later_stages_see_only_that():
    generator = torch.Generator().manual_seed(0)
    kept = keep_tokens((1, 2, 4, 8), (1.0, 1.0, 0.5, 0.25), 3, generator)
    assert [len(tokens) for tokens in kept.of_stage] == [1, 4, 8, 16]
    assert kept.levels.tolist() == [0] * 3 + [1] * 4 + [2] * 8 + [3] * 16
    assert kept.places[:4].tolist() == [0, 1, 2, 3]
    assert (kept.places[4:12] - 4).equal(kept.of_stage[2])
    assert (kept.places[12:] - 20).equal(kept.of_stage[3])


def test_pixels_near_something_weigh_more_in_the_decoder_s_loss():
    images = torch.full((2, 3, 64, 64), 0.5) + 0.01 * torch.rand(2, 3, 64, 64)
    images[:, 0, 24:40, 24:40] = -1.0
    weights = contrast_weights(images)
    assert weights.shape == (2, 1, 64, 64)
    assert weights.mean(dim=(1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-4)
    assert weights[:, :, 24:40, 24:40].min() > 2 * weights[:, :, :8, :8].max()


def test_the_decoder_s_loss_is_the_plain_one_with_even_weights():
    out, images = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    even = reconstruction_loss(out, images, torch.ones(2, 1, 16, 16))
    assert even.item() == pytest.approx(reconstruction_loss(out, images).item(), rel=1e-5)
    images[1] = out[1]  # all error is in the first picture
    even = reconstruction_loss(out, images)
    emphasis = torch.tensor([2.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    assert reconstruction_loss(out, images, emphasis) > 2 * even


def test_emptied_texts_are_what_guidance_compares_with():
    positions = torch.arange(1, 6).expand(3, 5)
    text = EncodedText(torch.randn(3, 5, 8), positions, torch.ones(3, 5))
    emptied = text.emptied(torch.tensor([False, True, False]))
    assert not emptied.context[1].any()
    assert not emptied.positions[1].any()
    for now, before in zip(emptied, text, strict=True):
        assert now[::2].equal(before[::2])
