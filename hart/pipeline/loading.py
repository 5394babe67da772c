"""Reading the transformer and its similarity data into memory."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from hart.modules.models.autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.feature_caching import FeatureCachingMixin
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.var_checkpoint import VARFiles
from hart.modules.networks.caching.similarity_io import SimilarityFileError
from hart.pipeline.folders import CheckpointFolders, PathLike, find_similarity_file
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


def load_similarity(model: FeatureCachingMixin, path: PathLike) -> Path:
    """Give the model the similarity data of a file and return its path.

    Raises:
        ValueError: the file is damaged or belongs to another model.
        OSError: the file cannot be read.

    Warns:
        UserWarning: it lacks transitions between this model's stages; nothing is reused there.
    """
    loaded = model.load_similarity_data(path)
    if loaded.matched < loaded.total:
        warnings.warn(
            f"{path} has {loaded.matched} of this model's {loaded.total} transitions between "
            "stages; nothing is reused at the others",
            stacklevel=2,
        )
    return Path(path)


def load_bundled_similarity(
    model: FeatureCachingMixin, folders: CheckpointFolders | VARFiles
) -> Path | None:
    """Read the checkpoint's own similarity data, unless its config named others already.

    Returns the file that the model's data come from. A damaged one is ignored with a warning:
    nobody asked for it, and drawing works without.
    """
    if not model.similarity.is_empty:
        return Path(model.config.sim_path)
    file = find_similarity_file(folders)
    if file is None:
        return None
    try:
        return load_similarity(model, file)
    except SimilarityFileError as error:
        warnings.warn(f"{error}; ignored", stacklevel=3)
        return None
