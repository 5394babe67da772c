"""Which folder each part of a checkpoint comes from, and what is said when one is missing."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest

from hart.pipeline.folders import (
    find_similarity_file,
    locate_checkpoint,
    resolve_system_prompt,
    resolve_use_ema,
)
from hart.utils.constants import llm_system_prompt
from hart.utils.weights import CheckpointError


@pytest.mark.parametrize("inside", ["", "llm"])
def test_the_root_and_its_llm_folder_name_the_same_checkpoint(shared_checkpoint, inside):
    folders = locate_checkpoint(shared_checkpoint / inside)
    assert folders.root == shared_checkpoint
    assert folders.llm == shared_checkpoint / "llm"
    assert folders.text_model == folders.text_tokenizer == shared_checkpoint / "text_model"
    assert folders.autoencoder == shared_checkpoint / "tokenizer"


def test_a_relative_llm_folder_still_finds_its_neighbours(shared_checkpoint, monkeypatch):
    monkeypatch.chdir(shared_checkpoint)
    assert locate_checkpoint("llm").text_model == shared_checkpoint / "text_model"


def test_the_folder_of_an_autoencoder_given_as_tokenizer_is_used_as_that(shared_checkpoint):
    tokenizer = shared_checkpoint / "tokenizer"
    folders = locate_checkpoint(shared_checkpoint, tokenizer_path=tokenizer)
    assert folders.autoencoder == tokenizer
    assert folders.text_tokenizer == shared_checkpoint / "text_model"


def test_a_text_tokenizer_of_its_own_does_not_replace_the_text_model(shared_checkpoint, tmp_path):
    folders = locate_checkpoint(shared_checkpoint, tokenizer_path=tmp_path)
    assert folders.text_tokenizer == tmp_path
    assert folders.autoencoder == shared_checkpoint / "tokenizer"
    assert folders.text_model == shared_checkpoint / "text_model"


def test_a_text_encoder_given_as_tokenizer_serves_both_where_none_is_bundled(checkpoint, tmp_path):
    elsewhere = tmp_path / "qwen"
    shutil.move(checkpoint / "text_model", elsewhere)
    folders = locate_checkpoint(checkpoint, tokenizer_path=elsewhere)
    assert folders.text_model == folders.text_tokenizer == elsewhere


def test_without_a_text_model_the_error_names_the_option(checkpoint):
    shutil.rmtree(checkpoint / "text_model")
    with pytest.raises(CheckpointError, match="text_model_path"):
        locate_checkpoint(checkpoint)


def test_a_missing_folder_is_not_looked_up_on_the_hub(tmp_path):
    with pytest.raises(CheckpointError, match="absent: no such folder"):
        locate_checkpoint(tmp_path / "absent")


def test_a_file_in_place_of_a_folder_is_named(shared_checkpoint):
    with pytest.raises(CheckpointError, match="expected a folder"):
        locate_checkpoint(shared_checkpoint / "llm" / "config.json")


def test_a_folder_without_a_checkpoint_says_what_it_lacks(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither a folder 'llm' nor a config\.json"):
        locate_checkpoint(tmp_path)


def test_a_checkpoint_of_another_model_type_is_refused_before_its_weights_are_read(checkpoint):
    (checkpoint / "llm" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match=r"'gpt2', expected 'hart_transformer_t2i'"):
        locate_checkpoint(checkpoint)


def test_the_autoencoder_is_looked_for_where_the_config_says(checkpoint, tmp_path):
    file = checkpoint / "llm" / "config.json"
    config = {**json.loads(file.read_text()), "vae_path": str(tmp_path / "vae")}
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="vae: no such folder"):
        locate_checkpoint(checkpoint)
    shutil.move(checkpoint / "tokenizer", tmp_path / "vae")
    assert locate_checkpoint(checkpoint).autoencoder == tmp_path / "vae"


def test_a_missing_autoencoder_is_found_before_any_weights_are_read(checkpoint):
    shutil.rmtree(checkpoint / "tokenizer")
    with pytest.raises(CheckpointError, match="tokenizer: no such folder"):
        locate_checkpoint(checkpoint)


def test_a_hub_name_is_fetched_and_then_used_like_a_folder(shared_checkpoint, monkeypatch):
    fetched = []

    def snapshot_download(name):
        fetched.append(name)
        return str(shared_checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate_checkpoint("someone/hart-tiny").llm == shared_checkpoint / "llm"
    assert fetched == ["someone/hart-tiny"]


def test_an_unreachable_hub_gives_one_error_that_names_the_model(monkeypatch):
    def snapshot_download(name):
        raise RuntimeError("no route to host\nand many more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match="someone/hart-tiny: no such folder") as caught:
        locate_checkpoint("someone/hart-tiny")
    assert "many more" not in str(caught.value)


def test_averaged_weights_are_used_exactly_when_they_are_there(checkpoint):
    folders = locate_checkpoint(checkpoint)
    assert resolve_use_ema(folders, None) is False
    with pytest.raises(CheckpointError, match=r"ema_model\.bin"):
        resolve_use_ema(folders, True)
    (checkpoint / "llm" / "ema_model.bin").touch()
    assert resolve_use_ema(folders, None) is True
    assert resolve_use_ema(folders, False) is False


def test_the_system_prompt_is_the_argument_then_the_checkpoints_then_the_librarys(checkpoint):
    folders = locate_checkpoint(checkpoint)
    assert resolve_system_prompt(folders, None) == llm_system_prompt
    (checkpoint / "system_prompt.txt").write_text("root")
    assert resolve_system_prompt(folders, None) == "root"
    (checkpoint / "llm" / "system_prompt.txt").write_text("llm")
    assert resolve_system_prompt(folders, None) == "llm"
    assert resolve_system_prompt(folders, "") == ""


def test_a_system_prompt_file_is_taken_byte_for_byte(checkpoint):
    (checkpoint / "system_prompt.txt").write_bytes(b" a\r\nb \n")
    assert resolve_system_prompt(locate_checkpoint(checkpoint), None) == " a\r\nb \n"


def test_a_system_prompt_file_that_is_no_text_is_named(checkpoint):
    (checkpoint / "system_prompt.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"system_prompt.txt: not UTF-8"):
        resolve_system_prompt(locate_checkpoint(checkpoint), None)


def test_similarity_beside_the_transformer_goes_before_that_in_the_root(checkpoint):
    folders = locate_checkpoint(checkpoint)
    assert find_similarity_file(folders) is None
    (checkpoint / "cache_similarity.json").touch()
    assert find_similarity_file(folders) == checkpoint / "cache_similarity.json"
    (checkpoint / "llm" / "cache_similarity.json").touch()
    assert find_similarity_file(folders) == checkpoint / "llm" / "cache_similarity.json"
