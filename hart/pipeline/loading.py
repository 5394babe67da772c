"""Reading the parts of a checkpoint into memory."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.pipeline.folders import CheckpointFolders
from hart.utils.device import default_device
from hart.utils.weights import CheckpointError


def resolve_device(device: str | torch.device | None) -> torch.device:
    """``device``, or the best one that can be used now.

    Raises:
        ValueError: not the name of a device.
    """
    if device is None:
        return default_device()
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device is {device!r}; expected a name such as cpu, cuda, cuda:1 or mps"
        ) from error


def load_transformer(
    folders: CheckpointFolders, use_ema: bool, dtype: torch.dtype, device: torch.device
) -> HARTForT2IEnhanced:
    """Load the transformer and its autoencoder in ``dtype`` on ``device``.

    Raises:
        CheckpointError: a folder is incomplete, damaged or of another model.
    """
    fields = {} if folders.autoencoder is None else {"vae_path": str(folders.autoencoder)}
    model = HARTForT2IEnhanced.from_pretrained(
        folders.llm, use_ema=use_ema, dtype=dtype, device=device, **fields
    )
    _ = model.vae_proxy  # loads the autoencoder, so that a damaged one is found now
    return model


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
    tokenizer = _load_part("text tokenizer", folders.text_tokenizer, AutoTokenizer.from_pretrained)
    model, info = _load_part(
        "text model",
        folders.text_model,
        AutoModel.from_pretrained,
        torch_dtype=dtype,
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
