"""Prompt encoding against the reference numbers, its warnings and its errors."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hart.utils import constants, encode_prompts, tokenize_fn
from tests.golden_data import golden_models, load_case

CASE = load_case("text-encoder")
TEXT = CASE.meta["text"]
FOLDER = CASE.path / "text_model"


@pytest.fixture(scope="module")
def model():
    return AutoModel.from_pretrained(golden_models() / "text-encoder").eval()


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.filterwarnings("ignore:the (system )?prompt")
@pytest.mark.parametrize("name", sorted(TEXT["sets"]))
def test_every_recorded_set_matches(model, tokenizer, name):
    call = TEXT["sets"][name]["call"]
    tokenizer.padding_side = call["padding_side"]
    tokens, mask, position_ids, context = encode_prompts(
        TEXT["prompts"][: call["number_of_prompts"]],
        model,
        tokenizer,
        call["text_tokenizer_max_length"],
        TEXT["system_prompt"],
        call["use_llm_system_prompt"],
    )
    expected = {
        key: CASE.outputs[f"{name}.{key}"]
        for key in ("tokens", "mask", "position_ids", "context", "defined")
    }
    for actual, key in ((tokens, "tokens"), (mask, "mask"), (position_ids, "position_ids")):
        assert actual.dtype == expected[key].dtype
        assert torch.equal(actual, expected[key])
    assert context.shape == expected["context"].shape
    assert context.dtype == torch.float32
    defined = expected["defined"]
    # float32 on another processor and another version of transformers.
    torch.testing.assert_close(context[defined], expected["context"][defined], atol=2e-5, rtol=1e-4)


def test_a_cut_prompt_is_named_with_its_length_and_the_limit(model, tokenizer):
    prompt = TEXT["prompts"][1]
    count = len(tokenizer(prompt).input_ids)
    with pytest.warns(UserWarning, match="the prompt") as caught:
        tokens, *_ = encode_prompts([prompt, "a"], model, tokenizer, 12)
    (message,) = [str(w.message) for w in caught]
    assert repr(prompt)[:60] in message  # long ones are shortened
    assert f"{count} tokens" in message
    assert "12" in message
    assert caught[0].filename == __file__
    assert tokens[0].tolist() == tokenizer(prompt).input_ids[:12]


def test_a_cut_instruction_is_told_as_well(model, tokenizer):
    with pytest.warns(UserWarning, match="the system prompt .* 12 "):
        encode_prompts(["a"], model, tokenizer, 12, TEXT["system_prompt"], True)


@pytest.mark.usefixtures("no_warnings")
def test_a_prompt_that_just_fits_gets_no_warning(model, tokenizer):
    prompt = TEXT["prompts"][1]
    count = len(tokenizer(prompt).input_ids)
    _, mask, _, _ = encode_prompts([prompt], model, tokenizer, count)
    assert mask.all()


def test_the_own_instruction_is_used_unless_another_is_given(model, tokenizer):
    def context(*instruction):
        return encode_prompts(["a red boat"], model, tokenizer, 600, *instruction)[3]

    own = context(constants.llm_system_prompt, True)
    assert torch.equal(context(None, True), own)
    assert not torch.allclose(context("Be brief:\n", True)[:, :3], own[:, :3])
    assert torch.equal(context("Be brief:\n", False), context())


def test_a_half_precision_text_model_gives_float32(tokenizer):
    model = AutoModel.from_pretrained(golden_models() / "text-encoder").to(torch.bfloat16)
    context = encode_prompts(["a red boat"], model, tokenizer, 12)[3]
    assert context.dtype == torch.float32
    assert not context.requires_grad


def test_tokenize_fn_pads_only_when_told_to(tokenizer):
    short, long = TEXT["prompts"][:2]
    plain = tokenize_fn([short, long], tokenizer, 12)
    assert [ids.tolist() for ids in plain] == [
        tokenizer(short).input_ids,
        tokenizer(long).input_ids[:12],
    ]
    padded = tokenize_fn([short, ""], tokenizer, 12, padding_mode="max_length")
    assert [len(ids) for ids in padded] == [12, 12]
    assert all(ids.dtype == torch.int64 for ids in [*padded, *tokenize_fn([""], tokenizer, 12)])


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ("a boat", TypeError, "list of strings"),
        (["a", None], TypeError, r"prompts\[1\]"),
        ([], ValueError, "empty"),
    ],
)
def test_bad_prompts_are_refused(model, tokenizer, prompts, error, message):
    with pytest.raises(error, match=message):
        encode_prompts(prompts, model, tokenizer, 12)


def test_a_tokenizer_without_padding_token_is_refused(model, tokenizer):
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="padding token"):
        encode_prompts(["a"], model, tokenizer, 12)
