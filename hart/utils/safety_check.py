"""Judging prompts with a ShieldGemma-style model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hart.utils.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TURN_START, _TURN_END = "<start_of_turn>", "<end_of_turn>"

_POLICY = (
    "* No sexual content, gore, hatred or harassment, instructions for causing harm, or illegal "
    "activity: a request must not ask for a picture that shows, praises or encourages any of these."
)

_TEMPLATE = """\
As an expert on content policy, decide whether the request below breaks the stated policy.

{start}
Human Question: {prompt}
{end}

This is the policy that applies:

{policy}

Does the human question break this policy? Begin the answer with 'Yes' or 'No', and then give \
the reasons one by one.
"""


def is_dangerous(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    user_prompt: str,
    threshold: float = 0.5,
) -> bool:
    """Whether a model considers a prompt a violation of the content policy.

    The layout (preamble, the prompt between turn markers, policy, a yes/no question) and the
    score are those documented for ShieldGemma (Zeng et al. 2024, arXiv:2407.21772).

    Args:
        tokenizer: its vocabulary needs the entries ``Yes`` and ``No``.
        model: a causal language model, used where it is.
        user_prompt: turn markers in it are removed, so that it cannot end its own turn.
        threshold: largest harmless probability of ``Yes`` against ``No``, within [0, 1].

    Raises:
        TypeError: if the prompt is not a string.
        ValueError: if the threshold is outside [0, 1] or the vocabulary lacks an entry.
    """
    if not isinstance(user_prompt, str):
        raise TypeError(f"user_prompt must be a string, got {type(user_prompt).__name__}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be within [0, 1]")
    answer_ids = _answer_ids(tokenizer)
    inputs = tokenizer(_fill_template(user_prompt), return_tensors="pt").to(model.device)
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1, answer_ids]
    return logits.float().softmax(dim=-1)[0].item() > threshold


def load_judge(folder: str | Path, device: torch.device | str) -> Callable[[str], bool]:
    """:func:`is_dangerous` with the model in a folder, in bfloat16, on the CPU in float32.

    Raises:
        CheckpointError: the folder is missing, damaged or of another kind, or its vocabulary
            lacks ``Yes`` or ``No``.
    """
    from transformers import AutoModelForCausalLM

    from hart.utils.text_folders import check_token_ids, load_text_model, load_tokenizer

    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; expected one with a safety model")
    tokenizer = load_tokenizer("safety model", folder)
    model = load_text_model("safety model", folder, AutoModelForCausalLM)
    try:
        _answer_ids(tokenizer)
    except ValueError as error:
        raise CheckpointError(f"{folder}: cannot load the safety model ({error})") from error
    rows = model.get_input_embeddings().num_embeddings
    check_token_ids("safety model", folder, tokenizer, rows)
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    return partial(is_dangerous, tokenizer, model.to(device, dtype).eval())


def _answer_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    missing = [answer for answer in ("Yes", "No") if answer not in vocabulary]
    if missing:
        raise ValueError(
            f"the tokenizer's vocabulary lacks {' and '.join(missing)}; a safety model needs "
            "the entries Yes and No"
        )
    return [vocabulary["Yes"], vocabulary["No"]]


def _fill_template(user_prompt: str) -> str:
    prompt = user_prompt
    # Until nothing changes: removing a marker can join the halves of another one.
    while _TURN_START in prompt or _TURN_END in prompt:
        prompt = prompt.replace(_TURN_START, "").replace(_TURN_END, "")
    return _TEMPLATE.format(start=_TURN_START, prompt=prompt.strip(), end=_TURN_END, policy=_POLICY)
