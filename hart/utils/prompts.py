"""Prompts to text embeddings."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hart.utils.adapted import compute_device
from hart.utils.constants import llm_system_prompt
from hart.utils.errors import shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def tokenize_fn(
    strings: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    padding_mode: str = "longest",
) -> list[Tensor]:
    """The token ids of each string by itself, cut to ``max_length``: int64 tensors of one axis.

    ``padding_mode`` is ``"longest"`` (none, as each text stands alone) or ``"max_length"``.
    """
    how = {"padding": padding_mode, "max_length": max_length, "truncation": True}
    encoded = (tokenizer(text, return_tensors="pt", **how) for text in strings)
    # An empty text has no ids from which the library could tell the dtype.
    return [encoding.input_ids[0].long() for encoding in encoded]


def encode_prompts(
    prompts: list[str],
    text_model: PreTrainedModel,
    text_tokenizer: PreTrainedTokenizerBase,
    text_tokenizer_max_length: int,
    system_prompt: str | None = None,
    use_llm_system_prompt: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the text conditions of prompts.

    Args:
        prompts: B texts. An empty one is accepted and becomes a row of padding.
        text_model, text_tokenizer: of ``transformers``; padding goes to the tokenizer's own side.
        text_tokenizer_max_length: M, the number of text positions (``context_token``).
        system_prompt: Instruction to put before each prompt; by default the library's own
            ``llm_system_prompt``. Its positions are not part of the result.
        use_llm_system_prompt: Whether to put an instruction before the prompts at all.

    Returns:
        ``context_tokens`` (B, M) int64; ``context_mask`` (B, M) bool, false on padding;
        ``context_position_ids`` (B, M) int64, counting the unmasked positions from 0;
        ``context_tensor`` (B, M, E) float32, the last hidden states. All on the model's device.

    Raises:
        TypeError: if ``prompts`` is not a list of strings.
        ValueError: if there are no prompts or the tokenizer has no padding token.

    Warns:
        UserWarning: for every prompt, and for the instruction, that is cut to M tokens.
    """
    _check(prompts, text_tokenizer)
    limit, device = text_tokenizer_max_length, compute_device(text_model)
    _warn_if_cut(prompts, text_tokenizer, limit, "prompt")
    ids = torch.stack(tokenize_fn(prompts, text_tokenizer, limit, padding_mode="max_length"))
    tokens = ids.to(device)
    mask = tokens != text_tokenizer.pad_token_id
    position_ids = mask.long().cumsum(dim=1) - 1

    model_ids, model_mask, prefix_length = tokens, mask, 0
    if use_llm_system_prompt:
        instruction = llm_system_prompt if system_prompt is None else system_prompt
        _warn_if_cut([instruction], text_tokenizer, limit, "system prompt")
        (prefix,) = tokenize_fn([instruction], text_tokenizer, limit)
        prefix = prefix.to(device).expand(len(prompts), -1)
        model_ids = torch.cat([prefix, tokens], dim=1)
        model_mask = torch.cat([torch.ones_like(prefix, dtype=mask.dtype), mask], dim=1)
        prefix_length = prefix.shape[1]

    with torch.no_grad():
        output = text_model(model_ids, attention_mask=model_mask, output_hidden_states=True)
    features = output.hidden_states[-1][:, prefix_length:].float()
    return tokens, mask, position_ids, features


def _check(prompts: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    if not isinstance(prompts, (list, tuple)):
        raise TypeError(f"prompts must be a list of strings, got {type(prompts).__name__}")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise TypeError(f"prompts[{index}] must be a string, got {type(prompt).__name__}")
    if not prompts:
        raise ValueError("prompts is empty; at least one is needed")
    if tokenizer.pad_token_id is None:
        raise ValueError("text_tokenizer has no padding token; set text_tokenizer.pad_token")


def _warn_if_cut(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, limit: int, kind: str
) -> None:
    for text in texts:
        count = len(tokenizer(text, verbose=False).input_ids)
        if count > limit:
            warnings.warn(
                f"the {kind} {shown(text, 200)} has {count} tokens; only {limit} of them fit "
                "the text context, the rest is ignored",
                stacklevel=3,
            )
