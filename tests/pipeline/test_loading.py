"""Loading a checkpoint: one dtype everywhere, the right weights, and errors that name the part."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hart.modules.networks.caching.stages import StageSchedule
from hart.pipeline import HARTPipeline
from hart.utils.weights import CheckpointError


def load(folder, **options) -> HARTPipeline:
    return HARTPipeline.from_pretrained(folder, device="cpu", system_prompt="", **options)


def truncate(file) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit_config(file, **fields) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_three_networks_have_the_dtype_that_was_asked_for(shared_checkpoint, dtype):
    pipeline = load(shared_checkpoint, dtype=dtype)
    networks = (pipeline.model, pipeline.model.vae_proxy[0], pipeline.text_model)
    assert {network.dtype for network in networks} == {getattr(torch, dtype)}
    assert len(pipeline("a red fox", quiet=True).images) == 1


def test_the_autoencoder_given_as_tokenizer_path_replaces_the_neighbour(checkpoint, tmp_path):
    elsewhere = shutil.move(checkpoint / "tokenizer", tmp_path / "vae")
    pipeline = load(checkpoint, tokenizer_path=elsewhere)
    assert pipeline.model.vae_proxy[0].config.vocab_size == pipeline.model.V


def test_averaged_weights_are_used_unless_they_are_refused(checkpoint):
    weights = load_file(checkpoint / "llm" / "model.safetensors")
    averaged = {**weights, "head.bias": weights["head.bias"] + 1}
    torch.save(averaged, checkpoint / "llm" / "ema_model.bin")
    for use_ema, expected in ((None, averaged), (True, averaged), (False, weights)):
        bias = load(checkpoint, use_ema=use_ema).model.head.bias
        assert torch.equal(bias, expected["head.bias"])


def test_an_unknown_device_is_refused(shared_checkpoint):
    with pytest.raises(ValueError, match="device is 'abacus'"):
        HARTPipeline.from_pretrained(shared_checkpoint, device="abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_refused(shared_checkpoint):
    with pytest.raises(ValueError, match="device cuda cannot compute"):
        HARTPipeline.from_pretrained(shared_checkpoint, device="cuda")


def test_an_unknown_dtype_lists_the_known_ones(shared_checkpoint):
    with pytest.raises(ValueError, match=r"'int8'; allowed are float32, bfloat16, float16"):
        load(shared_checkpoint, dtype="int8")


def test_an_unknown_preset_lists_the_known_ones(shared_checkpoint):
    with pytest.raises(ValueError, match=r"unknown cache preset 'fast'.*aggressive"):
        load(shared_checkpoint, cache="fast")


@pytest.mark.parametrize("part", ["llm", "tokenizer", "text_model"])
def test_truncated_weights_are_found_when_loading_and_named(checkpoint, part):
    truncate(checkpoint / part / "model.safetensors")
    with pytest.raises(CheckpointError, match=part):
        load(checkpoint)


def test_weights_of_another_size_are_refused_with_the_first_difference(checkpoint):
    edit_config(checkpoint / "llm" / "config.json", embed_dim=32)
    with pytest.raises(CheckpointError, match="has shape"):
        load(checkpoint)


def test_a_text_model_with_missing_weights_is_not_filled_with_random_ones(checkpoint):
    file = checkpoint / "text_model" / "model.safetensors"
    weights = load_file(file)
    dropped = next(key for key in sorted(weights) if key.endswith("norm.weight"))
    del weights[dropped]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 weights of the text model are missing"):
        load(checkpoint)


def test_a_text_model_of_another_width_is_refused(checkpoint):
    edit_config(checkpoint / "llm" / "config.json", context_dim=32)
    weights = load_file(checkpoint / "llm" / "model.safetensors")
    for key in ("context_embed.weight", "context_norm.weight"):
        weights[key] = weights[key][..., :32].contiguous()
    save_file(weights, checkpoint / "llm" / "model.safetensors")
    with pytest.raises(CheckpointError, match="width 48, the transformer expects 32"):
        load(checkpoint)


def test_a_tokenizer_with_more_entries_than_the_text_model_is_refused(checkpoint, tmp_path):
    larger = shutil.copytree(checkpoint / "text_model", tmp_path / "larger")
    (larger / "model.safetensors").unlink()
    tokenizer = json.loads((larger / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary.update({f"extra{i}": len(vocabulary) + 10 + i for i in range(50)})
    (larger / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="entries, but the text model"):
        load(checkpoint, tokenizer_path=larger)


def test_a_folder_without_a_text_tokenizer_is_named(checkpoint):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / "text_model" / file).unlink()
    with pytest.raises(CheckpointError, match=r"text_model: .*text tokenizer"):
        load(checkpoint)


def save_table(pipeline, file, value: float) -> None:
    model = pipeline.model
    for table in (model.similarity.attn, model.similarity.mlp):
        table[0][model.schedule.columns[-1]] = value
    model.save_similarity_data(file)


def test_similarity_data_in_the_checkpoint_are_loaded_with_it(checkpoint):
    save_table(load(checkpoint), checkpoint / "llm" / "cache_similarity.json", 0.25)
    pipeline = load(checkpoint)
    assert pipeline.similarity_path == checkpoint / "llm" / "cache_similarity.json"
    assert max(pipeline.model.similarity.attn[0]) == 0.25


def test_damaged_similarity_data_that_nobody_asked_for_are_ignored_with_a_warning(checkpoint):
    (checkpoint / "cache_similarity.json").write_text("{")
    with pytest.warns(UserWarning, match="not a usable"):
        pipeline = load(checkpoint)
    assert pipeline.similarity_path is None
    assert pipeline.model.similarity.is_empty


def test_damaged_similarity_data_that_were_asked_for_are_an_error(shared_checkpoint, tmp_path):
    file = tmp_path / "table.json"
    file.write_text("{")
    with pytest.raises(ValueError, match="not a usable"):
        load(shared_checkpoint).load_similarity(file)


def test_similarity_data_of_another_schedule_say_what_they_lack(checkpoint, tmp_path):
    pipeline = load(checkpoint)
    pipeline.model.schedule = StageSchedule((1, 2, 3, 5, 6, 8))
    save_table(pipeline, tmp_path / "table.json", 0.5)
    with pytest.warns(UserWarning, match=r"3 of this model's 5 transitions"):
        load(checkpoint).load_similarity(tmp_path / "table.json")
