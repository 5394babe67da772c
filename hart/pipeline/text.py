"""The text encoder: loading it, and turning prompts into the transformer's text conditions."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from hart.pipeline.folders import CheckpointFolders
from hart.pipeline.loading import lent_to, text_dtype
from hart.utils.prompts import encode_prompts
from hart.utils.text_folders import check_token_ids, load_text_model, load_tokenizer
from hart.utils.weights import CheckpointError

# A fast tokenizer keeps the padding of the call at hand in itself: two threads would share it.
_tokenizer_lock = threading.Lock()
_DTYPE_KEYWORD = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"


def load_text_encoder(
    folders: CheckpointFolders, context_dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the text encoder of a pipeline in ``dtype`` on ``device``, and its tokenizer.

    Args:
        context_dim: width E of the text features that the transformer expects.

    Raises:
        CheckpointError: a folder is damaged, weights are missing, the features have another width
            or the tokenizer has more entries than the text encoder.
    """
    tokenizer = load_tokenizer("text tokenizer", folders.text_tokenizer)
    model, info = load_text_model(
        "text model",
        folders.text_model,
        AutoModel,
        **{_DTYPE_KEYWORD: text_dtype(dtype, device)},
        output_loading_info=True,
    )
    _check_text_encoder(model, tokenizer, info, folders, context_dim)
    return model.to(device).eval(), tokenizer


def _check_text_encoder(model, tokenizer, info, folders, context_dim) -> None:
    missing = sorted(info["missing_keys"]) + [str(key) for key in info["mismatched_keys"]]
    if missing:
        raise CheckpointError(
            f"{folders.text_model}: {len(missing)} weights of the text model are missing or have "
            f"another shape, the first is {missing[0]}"
        )
    modules = {name for name, _ in model.named_modules()}
    surplus = [key for key in sorted(info["unexpected_keys"]) if _belongs_to(modules, key)]
    if surplus:
        raise CheckpointError(
            f"{folders.text_model}: {len(surplus)} weights have no place in a "
            f"{type(model).__name__}, the first is {surplus[0]}; is model_type right?"
        )
    width = getattr(model.config, "hidden_size", context_dim)
    if width != context_dim:
        raise CheckpointError(
            f"{folders.text_model}: its features have width {width}, "
            f"the transformer expects {context_dim}"
        )
    rows = model.get_input_embeddings().num_embeddings
    check_token_ids("text model", folders.text_tokenizer, tokenizer, rows)


def _belongs_to(modules: set[str], key: str) -> bool:
    """Whether a weight is one of a module that the model has, and has without it."""
    owner, _, name = key.removeprefix("model.").rpartition(".")
    return bool(owner) and owner in modules and name in ("weight", "bias")


def encode_unique(
    prompts: Sequence[str],
    text_model: PreTrainedModel,
    text_tokenizer: PreTrainedTokenizerBase,
    context_token: int,
    system_prompt: str,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Text conditions of B prompts, each distinct one encoded once.

    Args:
        context_token: text positions T.
        system_prompt: instruction put before each prompt; an empty one means none.
        device: where the text encoder is meanwhile; by default where it is.

    Returns:
        Features (B, T, E), position ids (B, T) and mask (B, T); see ``encode_prompts``.
    """
    unique = list(dict.fromkeys(prompts))
    place = contextlib.nullcontext() if device is None else lent_to(text_model, device)
    with _tokenizer_lock, place:
        _, mask, position_ids, features = encode_prompts(
            unique,
            text_model,
            text_tokenizer,
            context_token,
            system_prompt=system_prompt,
            use_llm_system_prompt=bool(system_prompt),
        )
    rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=features.device)
    return features[rows], position_ids[rows], mask[rows]
