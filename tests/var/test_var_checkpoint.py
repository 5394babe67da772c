"""Loading VAR's files: sizes from the weights, other layouts, and errors that name the file."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from hart.modules.models.autoencoder.vqvae import VQVAE, vqvae_config
from hart.modules.models.transformer.configuration_var import VARForC2IConfig
from hart.modules.models.transformer.var_checkpoint import (
    is_var_checkpoint,
    locate_var_files,
    var_config,
)
from hart.modules.models.transformer.var_transformer_c2i import VARForC2I
from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from hart.utils.weights import CheckpointError
from tests.golden_data import load_case
from tests.var.checkpoint import PATCH_NUMS, golden_model, golden_vae, vae_state, var_file

PUBLISHED = {"var_d16": 310_283_520, "var_d36": 2_353_893_904}


def published_state(name: str) -> dict[str, torch.Tensor]:
    """Keys and shapes of a published file, without values but for the schedule's."""
    manifest = json.loads((load_case("var-small").path / f"manifest_{name}.json").read_text())
    state = {
        key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for key, entry in manifest["tensors"].items()
    }
    if "lvl_1L" in state:
        sides = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32) if "36" in name else VARForC2IConfig().patch_nums
        state["lvl_1L"] = torch.cat([torch.full((n * n,), i) for i, n in enumerate(sides)])[None]
    return state


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("model_class", [VARForC2I, VARForC2IEnhanced])
def test_published_transformers_fit(name, model_class):
    state = published_state(name)
    with torch.device("meta"):
        model = model_class(var_config(state))
        model.load_state_dict(state)  # strictly
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]
    assert set(state) - set(model.state_dict()) == {"attn_bias_for_masking"}
    assert model.depth == int(name[-2:]) == model.num_heads
    assert model.config.shared_aln == (name == "var_d36")
    assert model.attn_bias_for_masking.shape == state["attn_bias_for_masking"].shape


def test_the_published_autoencoder_fits():
    state = published_state("vae_ch160v4096z32")
    with torch.device("meta"):
        model = VQVAE(vqvae_config(state, VARForC2IConfig().patch_nums))
        model.load_state_dict(state)
    assert sum(p.numel() for p in model.parameters()) == 108_948_355
    assert set(state) == set(model.state_dict())


@pytest.fixture
def folder(tmp_path):
    shutil.copy(var_file(), tmp_path)
    return tmp_path


def test_the_files_of_a_folder(folder):
    assert not is_var_checkpoint(var_file().parent)  # there is a config.json
    assert is_var_checkpoint(folder)
    assert locate_var_files(folder).autoencoder is None
    vae = folder / "vae_small.pth"
    vae.touch()
    for path in (folder, folder / "var_small.pth"):
        files = locate_var_files(path)
        assert (files.transformer, files.autoencoder) == (folder / "var_small.pth", vae)

    with pytest.raises(CheckpointError, match=r"vae_small.pth: this is the autoencoder"):
        locate_var_files(vae)
    (folder / "var_d20.pth").touch()
    with pytest.raises(CheckpointError, match=r"several transformers \(var_d20.pth, var_small"):
        locate_var_files(folder)
    (folder / "vae_other.pth").touch()
    with pytest.raises(CheckpointError, match="several autoencoders"):
        locate_var_files(folder / "var_small.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        locate_var_files(folder / "var_d30.pth")


def test_a_training_checkpoint_holds_both(tmp_path):
    file = tmp_path / "ar-ckpt-best.pth"
    nested = {
        "var_wo_ddp": load_case("var-small").weights(),
        "vae_local": vae_state(),
        "config": {"depth": 2},
    }
    torch.save({"epoch": 3, "iter": 0, "args": {"depth": 2}, "trainer": nested}, file)
    model = VARForC2I.from_pretrained(file)
    assert model.head.weight.equal(golden_model().head.weight)
    assert model.vae_proxy[0].decoder.conv_out.weight.equal(golden_vae().decoder.conv_out.weight)

    del nested["var_wo_ddp"]
    torch.save({"trainer": nested}, file)
    with pytest.raises(CheckpointError, match=r"best.pth: .* without trainer.var_wo_ddp"):
        VARForC2I.from_pretrained(file)


def test_a_forks_merged_biases_are_split(folder):
    state = load_case("var-small").weights()
    for layer in range(2):
        prefix = f"blocks.{layer}.attn."
        names = [prefix + name for name in ("q_bias", "zero_k_bias", "v_bias")]
        state[prefix + "mat_qkv.bias"] = torch.cat([state.pop(name) for name in names])
    torch.save(state, folder / "var_small.pth")
    loaded, expected = VARForC2I.from_pretrained(folder), golden_model()
    for key, value in expected.state_dict().items():
        assert loaded.state_dict()[key].equal(value), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("class_emb.weight"), "has no 'class_emb.weight'"),
        (lambda s: s.pop("blocks.1.ffn.fc2.bias"), "key 'blocks.1.ffn.fc2.bias' is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "key 'extra' is unexpected"),
        (lambda s: s.update(lvl_1L=torch.tensor([[0, 1, 1]])), r"stages of \[1, 2\] tokens"),
    ],
)
def test_files_that_do_not_fit(folder, change, message):
    state = load_case("var-small").weights()
    change(state)
    torch.save(state, folder / "var_small.pth")
    with pytest.raises(CheckpointError, match=rf"var_small.pth.*{message}"):
        VARForC2I.from_pretrained(folder)


def test_a_truncated_file(folder):
    file = folder / "var_small.pth"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"var_small.pth: not a complete file"):
        VARForC2I.from_pretrained(file)


def test_a_transformer_is_no_autoencoder():
    with pytest.raises(CheckpointError, match="not an autoencoder of VAR"):
        VQVAE.from_pth(var_file(), PATCH_NUMS)


def test_an_autoencoder_with_other_stages_is_refused():
    vae = VQVAE(vqvae_config(vae_state(), (1, 2, 3, 6)))
    model = VARForC2I.from_pretrained(var_file())
    with pytest.raises(ValueError, match=r"v_patch_nums are \(1, 2, 3, 6\)"):
        model.attach_autoencoder(vae)
