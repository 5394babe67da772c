"""Loading and saving: formats, dtypes, damaged files, the autoencoder beside the transformer."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from hart.modules.models.transformer.checkpoint import CheckpointError
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from tests.golden_data import golden_models
from tests.product import product
from tests.tiny_models import draw, tiny_model, tiny_vae


@pytest.fixture
def root(tmp_path):
    """A checkpoint root as published: ``llm`` and, beside it, ``tokenizer``."""
    model = tiny_model(HARTForT2I)
    model.save_pretrained(tmp_path / "llm")
    tiny_vae().save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def weights_of(root) -> dict[str, torch.Tensor]:
    return load_file(root / "llm/model.safetensors")


def replace_weights(root, state, name) -> None:
    (root / "llm/model.safetensors").unlink()
    torch.save(state, root / "llm" / name)


@pytest.mark.parametrize("model_class", [HARTForT2I, HARTForT2IEnhanced])
def test_round_trip_draws_the_same_image(root, model_class):
    expected = draw(tiny_model(HARTForT2I))
    assert draw(model_class.from_pretrained(root / "llm")).equal(expected)


def test_trailing_slash_and_text_path(root):
    model = HARTForT2I.from_pretrained(f"{root}/llm/")
    assert model.vae_proxy[0].config.vocab_size == 24


def test_auto_classes(root):
    assert isinstance(AutoConfig.from_pretrained(root / "llm"), HARTForT2IConfig)
    assert isinstance(AutoModel.from_pretrained(root / "llm"), HARTForT2I)


def test_sizes_come_from_the_tokenizers_config(root):
    file = root / "llm/config.json"
    config = json.loads(file.read_text())
    config.update(vocab_size=None, z_channels=None)
    file.write_text(json.dumps(config))
    assert HARTForT2I.from_pretrained(root / "llm").V == 24


@pytest.mark.parametrize("name", ["pytorch_model.bin", "ema_model.bin"])
def test_pickled_weights_with_training_only_buffers(root, name):
    """What published checkpoints hold: also the quadratic mask, which must not stay in memory."""
    model = tiny_model(HARTForT2I)
    full = {**weights_of(root), "attn_bias_for_masking": model.attn_bias_for_masking}
    replace_weights(root, full, name)
    loaded = HARTForT2I.from_pretrained(root / "llm", use_ema=name.startswith("ema"))
    assert draw(loaded).equal(draw(model))
    held = [*loaded.parameters(), *loaded.buffers()]
    assert all(tensor.numel() < loaded.sequence_length**2 for tensor in held)
    loaded.load_state_dict(full, strict=True)
    assert "attn_bias_for_masking" in full


@product(keyword=["dtype", "torch_dtype"], value=[torch.bfloat16, "bfloat16"])
def test_weights_are_held_in_the_requested_dtype(root, keyword, value):
    model = HARTForT2I.from_pretrained(root / "llm", **{keyword: value})
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.vae_proxy[0].decoder.conv_in.weight.dtype == torch.bfloat16
    assert model.lvl_1L.dtype == torch.int64


def test_missing_constant_buffers_are_restored(root):
    state = {k: v for k, v in weights_of(root).items() if k != "lvl_1L" and "zero_k_bias" not in k}
    save_file(state, root / "llm/model.safetensors")
    assert draw(HARTForT2I.from_pretrained(root / "llm")).equal(draw(tiny_model(HARTForT2I)))


def test_config_keywords_override_fields_and_unknown_ones_are_refused(root):
    shutil.move(root / "tokenizer", root / "elsewhere")
    model = HARTForT2I.from_pretrained(root / "llm", vae_path=str(root / "elsewhere"))
    assert model.vae_proxy[0].config.vocab_size == 24
    with pytest.raises(TypeError, match="flavour"):
        HARTForT2I.from_pretrained(root / "llm", flavour="mint")


def test_missing_autoencoder(root):
    shutil.rmtree(root / "tokenizer")
    model = HARTForT2I.from_pretrained(root / "llm")
    with pytest.raises(CheckpointError, match="tokenizer"):
        _ = model.vae_proxy
    with pytest.raises(CheckpointError, match="attach_autoencoder"):
        _ = HARTForT2I(
            HARTForT2IConfig(**{**model.config.to_dict(), "_name_or_path": ""})
        ).vae_proxy


def test_autoencoder_of_another_size_is_refused():
    model = HARTForT2I.from_pretrained(golden_models() / "llama-no-aln")
    with pytest.raises(ValueError, match="vocab_size"):
        model.attach_autoencoder(tiny_vae())


def test_autoencoder_moves_along_and_copies_have_their_own():
    model = tiny_model(HARTForT2IEnhanced)
    clone = copy.deepcopy(model)
    assert clone.vae_proxy[0] is not model.vae_proxy[0]
    assert clone.head.weight is not model.head.weight
    assert not any(key.startswith("vae") for key in model.state_dict())
    model.double()
    assert model.vae_proxy[0].decoder.conv_in.weight.dtype == torch.float64
    assert clone.vae_proxy[0].decoder.conv_in.weight.dtype == torch.float32
    with torch.no_grad():
        clone.vae_proxy[0].decoder.conv_in.weight.zero_()
    assert model.vae_proxy[0].decoder.conv_in.weight.any()


@product(1, convert=["half", "double", "bfloat16"])
def test_an_autoencoder_of_two_models_is_changed_by_neither(convert):
    one, other = tiny_model(HARTForT2IEnhanced), tiny_model(HARTForT2IEnhanced)
    vae = one.vae_proxy[0]
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    other.attach_autoencoder(vae)
    other.to("cpu")
    assert other.vae_proxy[0] is vae  # nothing to convert
    getattr(copy.deepcopy(other), convert)()
    getattr(other, convert)()
    own = other.vae_proxy[0]
    assert own is not vae is one.vae_proxy[0]
    assert own.training == vae.training
    assert {p.dtype for p in own.parameters()} == {other.dtype}
    assert all(tensor.equal(before[name]) for name, tensor in vae.state_dict().items())
    assert {t.dtype for t in vae.state_dict().values()} == {torch.float32}


def test_an_autoencoder_that_is_loaded_in_inference_mode_can_be_trained():
    root = golden_models()
    model = HARTForT2I.from_pretrained(root / "llama-no-aln", vae_path=str(root / "tokenizer"))
    with torch.inference_mode():
        vae = model.vae_proxy[0]
    assert not any(tensor.is_inference() for tensor in vae.state_dict().values())


def test_unknown_config_keys_survive(root):
    config = HARTForT2IConfig(my_field=3)
    config.save_pretrained(root / "other")
    assert HARTForT2IConfig.from_pretrained(root / "other").my_field == 3
