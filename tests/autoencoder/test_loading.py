"""Tokenizer folders in every supported format, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from hart.modules.models.autoencoder import HARTAutoEncoder, hart_autoencoder_with_disc
from hart.utils.weights import CheckpointError
from tests.golden_data import golden_models
from tests.product import product

FORMATS = ("safetensors", "sharded safetensors", "bin", "sharded bin")


def write_folder(folder, weights, config, layout="safetensors"):
    """Write a tokenizer folder; shards split the keys in half."""
    (folder / "config.json").write_text(json.dumps(config))
    is_safe = layout.endswith("safetensors")
    name, save = ("model.safetensors", save_file) if is_safe else ("pytorch_model.bin", torch.save)
    if not layout.startswith("sharded"):
        save(weights, folder / name)
        return folder
    keys, stem, suffix = list(weights), *name.split(".")
    shards = {f"{stem}-1.{suffix}": keys[::2], f"{stem}-2.{suffix}": keys[1::2]}
    for shard, names in shards.items():
        save({key: weights[key] for key in names}, folder / shard)
    index = {"weight_map": {key: shard for shard, names in shards.items() for key in names}}
    (folder / f"{name}.index.json").write_text(json.dumps(index))
    return folder


def autoencoder_only(golden):
    config = {**golden.config, "model_type": "hart_autoencoder"}
    weights = golden.weights()
    return config, {k[4:]: v for k, v in weights.items() if k.startswith("vae.")}


@product(2, layout=FORMATS[::-1])
def test_every_file_format_gives_the_recorded_weights(golden, tmp_path, layout):
    folder = write_folder(tmp_path, golden.weights(), golden.config, layout)
    model = HARTAutoEncoder.from_tokenizer_folder(folder)
    assert not model.training
    expected = golden.weights()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[f"vae.{key}"]), key


def test_discriminator_is_neither_built_nor_required(golden, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("the discriminator was built")

    monkeypatch.setattr(hart_autoencoder_with_disc, "create_discriminator", refuse)
    weights = {k: v for k, v in golden.weights().items() if k.startswith("vae.")}
    HARTAutoEncoder.from_tokenizer_folder(write_folder(tmp_path, weights, golden.config))


def test_folder_of_the_autoencoder_alone(golden, tmp_path, vae):
    config, weights = autoencoder_only(golden)
    model = HARTAutoEncoder.from_tokenizer_folder(write_folder(tmp_path, weights, config))
    f_hat = golden.inputs["vae.f_hat"]
    assert torch.equal(model.fhat_to_img(f_hat), vae.fhat_to_img(f_hat))
    assert type(model.config).model_type == "hart_autoencoder"


@product(2, dtype=[None, torch.bfloat16, torch.float16, torch.float32])
def test_requested_dtype_is_used_for_every_floating_tensor(golden, vae, dtype):
    model = HARTAutoEncoder.from_tokenizer_folder(golden_models() / "tokenizer", dtype=dtype)
    tensors = [*model.parameters(), *model.buffers()]
    assert {t.dtype for t in tensors} == {dtype or torch.float32}
    assert not any(t.is_meta for t in tensors)
    f_hat = golden.inputs["vae.f_hat"][..., :4, :4]
    with torch.no_grad():
        image, expected = model.fhat_to_img(f_hat), vae.fhat_to_img(f_hat)
    assert image.dtype == (dtype or torch.float32)
    # Rounding the weights to bfloat16 alone moves this image by 0.005 on average.
    assert (image.float() - expected).abs().mean() < 0.02


def test_loaded_weights_do_not_follow_later_changes_of_the_file(golden, tmp_path):
    folder = write_folder(tmp_path, golden.weights(), golden.config)
    model = HARTAutoEncoder.from_tokenizer_folder(folder)
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(bytes(1000))
    assert torch.equal(
        model.decoder.conv_out.weight, golden.weights()["vae.decoder.conv_out.weight"]
    )


def test_hit_statistics_of_another_schedule_are_accepted(golden, tmp_path):
    weights = golden.weights()
    weights["vae.quantize.ema_vocab_hit_SV"] = torch.ones(10, 640)
    folder = write_folder(tmp_path, weights, golden.config)
    model = HARTAutoEncoder.from_tokenizer_folder(folder)
    assert model.quantize.ema_vocab_hit_SV.shape == (6, 640)
    assert model.quantize.ema_vocab_hit_SV.sum() == 0


def damaged(weights, kind):
    key = "vae.decoder.conv_in.weight"
    if kind == "missing":
        del weights[key]
    elif kind == "unexpected":
        weights["vae.surplus.weight"] = torch.zeros(1)
    else:
        weights[key] = weights[key][:, :-1].contiguous()
    return weights


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"'decoder\.conv_in\.weight' is missing"),
        ("unexpected", r"'surplus\.weight' is unexpected"),
        ("misshapen", r"'decoder\.conv_in\.weight' has shape .*31.*expected .*32"),
    ],
)
def test_first_difference_is_named(golden, tmp_path, kind, message):
    folder = write_folder(tmp_path, damaged(golden.weights(), kind), golden.config)
    with pytest.raises(CheckpointError, match=message) as caught:
        HARTAutoEncoder.from_tokenizer_folder(folder)
    assert str(folder) in str(caught.value)


def test_missing_shard_is_named(golden, tmp_path):
    folder = write_folder(tmp_path, golden.weights(), golden.config, "sharded safetensors")
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors"):
        HARTAutoEncoder.from_tokenizer_folder(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "config.json"),
        ("{", "not a readable JSON"),
        ('{"model_type": "bert"}', "'bert', expected 'hart_autoencoder'"),
        (
            '{"model_type": "hart_autoencoder", "quantizer_type": "x"}',
            "quantizer_type must be .* got 'x'",
        ),
    ],
)
def test_unusable_config_is_refused(tmp_path, content, message):
    shutil.copy(golden_models() / "tokenizer" / "model.safetensors", tmp_path)
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        HARTAutoEncoder.from_tokenizer_folder(tmp_path)
