"""The demo's text encoder: its tokenizer, its training, its folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, Qwen2Model

from hart.demo.captions import all_words, corpus
from hart.demo.scene import ATTRIBUTES
from hart.utils.prompts import encode_prompts
from recipes.demo.text import (
    CONTEXT_TOKENS,
    DEMO_SYSTEM_PROMPT,
    PAD_TOKEN,
    _written,
    save_text_model,
    train_text,
    train_tokenizer,
)

TINY = 3 / 1600  # three training steps


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_text(tmp_path_factory.mktemp("text"), scale=TINY, quiet=True)


def _encode(prompts, model, tokenizer, instructed=True):
    return encode_prompts(
        prompts,
        model,
        tokenizer,
        CONTEXT_TOKENS,
        system_prompt=DEMO_SYSTEM_PROMPT,
        use_llm_system_prompt=instructed,
    )


@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
def test_every_caption_word_is_one_token_at_the_start_and_behind_a_space(tokenizer, case):
    for word in all_words():
        assert len(tokenizer(case(word)).input_ids) == 1, word
        assert len(tokenizer(f" {case(word)}").input_ids) == 1, word


def test_captions_and_the_instruction_fit_the_text_context(tokenizer):
    texts = [text.upper() + "." for text in corpus(500, seed=11)]
    longest = max(len(tokenizer(text).input_ids) for text in texts)
    assert longest <= CONTEXT_TOKENS - 6
    assert len(tokenizer(DEMO_SYSTEM_PROMPT).input_ids) <= 20
    assert DEMO_SYSTEM_PROMPT.endswith("User Prompt:\n")


@pytest.mark.parametrize(
    "text", ["a small red fox", "zygote: 42%!", "日本 and é", "a\x00\n\tb", "🦊🦊", ""]
)
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_loaded_tokenizer_of_a_qwen2_folder_gives_the_ids_of_the_trained_one(trained, tmp_path):
    model, tokenizer, _ = trained
    save_text_model(model, tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert "Qwen2" in type(loaded).__name__
    assert len(loaded) == len(tokenizer) == model.config.vocab_size
    assert (loaded.pad_token, loaded.pad_token_id) == (PAD_TOKEN, tokenizer.pad_token_id)
    texts = [
        "A small RED Star.\n",
        "a\r\n  b",
        "e\u0301 and \u00e9, 日本 🦊",
        "don't 42%",
        PAD_TOKEN,
    ]
    for text in [*texts, DEMO_SYSTEM_PROMPT, *corpus(50, seed=2)]:
        assert loaded(text).input_ids == tokenizer(text).input_ids, text


def test_composed_and_decomposed_letters_have_the_same_tokens(tokenizer):
    assert tokenizer("e\u0301").input_ids == tokenizer("\u00e9").input_ids


def test_some_training_captions_have_capitals_and_a_full_stop():
    rng = np.random.default_rng(0)
    texts = [_written("a red star on blue", rng) for _ in range(2000)]
    shares = {
        "capital": np.mean([text[0] == "A" for text in texts]),
        "stress": np.mean([text[1:] != text[1:].lower() for text in texts]),
        "full stop": np.mean([text[-1] == "." for text in texts]),
    }
    assert 0.2 < shares["capital"] < 0.3
    assert 0.08 < shares["stress"] < 0.2
    assert 0.07 < shares["full stop"] < 0.13
    assert {text.lower().removesuffix(".") for text in texts} == {"a red star on blue"}


def test_the_padding_id_stands_for_padding_only(trained, tmp_path):
    model, tokenizer, _ = trained
    save_text_model(model, tokenizer, tmp_path)
    for read in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        for text in (f"a {PAD_TOKEN} star", PAD_TOKEN, PAD_TOKEN.upper(), *corpus(50, seed=2)):
            assert read.pad_token_id not in read(text).input_ids
        padded = read("a star", padding="max_length", max_length=4).input_ids
        assert padded[2:] == [read.pad_token_id] * 2


def test_training_reports_every_attribute_and_freezes_the_model(trained):
    model, tokenizer, report = trained
    assert report["steps"] == 3
    assert report["vocabulary"] == len(tokenizer) == model.config.vocab_size
    assert report["parameters"] == sum(p.numel() for p in model.parameters()) < 1_500_000
    assert len(report["accuracy"]) == 16
    assert all(set(scores) == set(ATTRIBUTES) for scores in report["accuracy"].values())
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.slow
def test_training_is_repeatable_and_resumes_from_its_folder(trained, tmp_path):
    def weights():
        return train_text(tmp_path, scale=TINY, quiet=True)[0].state_dict()

    first, resumed, expected = weights(), weights(), trained[0].state_dict()
    for name, value in expected.items():
        assert torch.equal(value, first[name]), name
        assert torch.equal(value, resumed[name]), name
    assert len((tmp_path / "text.jsonl").read_text().splitlines()) == 1


def test_the_instruction_changes_the_features(trained):
    model, tokenizer, _ = trained
    with_it, without = (_encode(["a red star"], model, tokenizer, use)[3] for use in (True, False))
    assert not torch.allclose(with_it, without, atol=1e-4)


def test_a_saved_folder_loads_by_itself_and_gives_the_same_features(trained, tmp_path):
    model, tokenizer, _ = trained
    save_text_model(model, tokenizer, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4_000_000
    assert not list(tmp_path.glob("*.partial"))
    loaded, loaded_tokenizer = (c.from_pretrained(tmp_path) for c in (AutoModel, AutoTokenizer))
    assert isinstance(loaded, Qwen2Model)
    assert loaded_tokenizer.padding_side == "right"
    prompts = ["a small RED star at the top left of a green background", ""]
    ours, theirs = _encode(prompts, model, tokenizer), _encode(prompts, loaded, loaded_tokenizer)
    assert ours[3].shape == (2, CONTEXT_TOKENS, 128)
    assert torch.isfinite(ours[3]).all()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("scale", [0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(tmp_path, scale):
    with pytest.raises(ValueError, match="scale is"):
        train_text(tmp_path, scale=scale)
