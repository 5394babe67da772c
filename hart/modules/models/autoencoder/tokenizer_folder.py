"""What a tokenizer folder says about the autoencoder, and what may differ in its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hart.modules.models.autoencoder.configuration import (
    HARTAutoEncoderConfig,
    HARTAutoEncoderWithDiscConfig,
)
from hart.utils.checked_config import read_config

HIT_AVERAGE = "quantize.ema_vocab_hit_SV"


def read_tokenizer_config(path: str | Path) -> tuple[HARTAutoEncoderConfig, str]:
    """Configuration of the autoencoder alone, for either model type, and its weights' prefix.

    Raises ``CheckpointError`` if the file is missing, damaged or of another model type, or a field
    has a value that is not allowed.
    """
    config = read_config(Path(path), HARTAutoEncoderConfig, HARTAutoEncoderWithDiscConfig)
    if isinstance(config, HARTAutoEncoderWithDiscConfig):
        alone = config.autoencoder_config()
        alone.name_or_path = config.name_or_path
        return alone, "vae."
    return config, ""


def with_fitting_hit_average(
    state_dict: Mapping[str, Any], hit_average: torch.Tensor, prefix: str = ""
) -> Mapping[str, Any]:
    """Replace hit statistics of another schedule by ``hit_average``, in a new dictionary.

    They are training statistics, one row per stage, on which no computation depends.
    """
    key = prefix + HIT_AVERAGE
    if key not in state_dict or state_dict[key].shape == hit_average.shape:
        return state_dict
    return {**state_dict, key: hit_average}
