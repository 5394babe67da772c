"""Reading the transformer and its similarity data into memory."""

from __future__ import annotations

import torch

from hart.modules.models.autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.feature_caching import FeatureCachingMixin
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.var_checkpoint import VARFiles
from hart.pipeline.folders import CheckpointFolders
from hart.utils.device import default_device


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
    vae = HARTAutoEncoder.from_tokenizer_folder(folders.autoencoder, dtype, device)
    return HARTForT2IEnhanced.from_pretrained(
        folders.llm,
        use_ema=use_ema,
        vae=vae,
        dtype=dtype,
        device=device,
        vocab_size=vae.config.vocab_size,
        z_channels=vae.config.z_channels,
    )


def load_bundled_similarity(
    model: FeatureCachingMixin, folders: CheckpointFolders | VARFiles
) -> None:
    """Read the checkpoint's own similarity data, unless the model came with some already.

    A damaged file is ignored with a warning: nobody asked for it, and drawing works without.
    """
    for file in folders.similarity_files[1:]:  # the first one came with the model
        model.load_own_similarity(file)
