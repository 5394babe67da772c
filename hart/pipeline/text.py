"""The text encoder: loading it, and turning prompts into the transformer's text conditions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hart.pipeline.folders import CheckpointFolders
from hart.utils.prompts import encode_prompts
from hart.utils.weights import CheckpointError

# A fast tokenizer keeps the padding of the call at hand in itself: two threads would share it.
_tokenizer_lock = threading.Lock()
_DTYPE_KEYWORD = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"


def load_text_encoder(
    folders: CheckpointFolders, context_dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the text encoder in ``dtype`` on ``device``, and its tokenizer.

    Args:
        context_dim: width E of the text features that the transformer expects.

    Raises:
        CheckpointError: a folder is damaged, weights are missing, the features have another width
            or the tokenizer has more entries than the text encoder.
    """
    tokenizer = _load_tokenizer(folders.text_tokenizer)
    model, info = _load_part(
        "text model",
        folders.text_model,
        AutoModel.from_pretrained,
        **{_DTYPE_KEYWORD: dtype},
        output_loading_info=True,
    )
    _check_text_encoder(model, tokenizer, info, folders, context_dim)
    return model.to(device).eval(), tokenizer


def _load_part(kind: str, folder: Path, load, **options):
    try:
        return load(folder, local_files_only=True, **options)
    # Damaged folders make the library fail with almost any exception type.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder}: cannot load the {kind} ({type(error).__name__}: {reason})"
        ) from error


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = _load_part("text tokenizer", folder, AutoTokenizer.from_pretrained)
    if not tokenizer("a picture").input_ids:
        # From a folder without vocabulary files some versions make a tokenizer without vocabulary.
        raise CheckpointError(f"{folder}: no vocabulary of a text tokenizer in this folder")
    return tokenizer


def _check_text_encoder(model, tokenizer, info, folders, context_dim) -> None:
    missing = sorted(info["missing_keys"]) + [str(key) for key in info["mismatched_keys"]]
    if missing:
        raise CheckpointError(
            f"{folders.text_model}: {len(missing)} weights of the text model are missing or have "
            f"another shape, the first is {missing[0]}"
        )
    width = getattr(model.config, "hidden_size", context_dim)
    if width != context_dim:
        raise CheckpointError(
            f"{folders.text_model}: its features have width {width}, "
            f"the transformer expects {context_dim}"
        )
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"{folders.text_tokenizer}: {len(tokenizer)} entries, "
            f"but the text model in {folders.text_model} only knows {rows}"
        )


def encode_unique(
    prompts: Sequence[str],
    text_model: PreTrainedModel,
    text_tokenizer: PreTrainedTokenizerBase,
    context_token: int,
    system_prompt: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Text conditions of B prompts, each distinct one encoded once.

    Args:
        context_token: text positions T.
        system_prompt: instruction put before each prompt; an empty one means none.

    Returns:
        Features (B, T, E), position ids (B, T) and mask (B, T); see ``encode_prompts``.
    """
    unique = list(dict.fromkeys(prompts))
    with _tokenizer_lock:
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
