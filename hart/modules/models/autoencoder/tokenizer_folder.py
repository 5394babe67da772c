"""Reading the autoencoder's part of a tokenizer folder (``config.json`` plus weight files)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hart.modules.models.autoencoder.configuration import (
    HARTAutoEncoderConfig,
    HARTAutoEncoderWithDiscConfig,
)
from hart.utils.weights import CheckpointError, read_state_dict

HIT_AVERAGE = "quantize.ema_vocab_hit_SV"


def read_tokenizer_folder(
    path: str | Path, dtype: torch.dtype | None, device: torch.device | str | None
) -> tuple[HARTAutoEncoderConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of the autoencoder alone, for either model type.

    Raises ``CheckpointError`` if a file is missing, damaged or of another model type.
    """
    config = _read_config(Path(path) / "config.json")
    if isinstance(config, HARTAutoEncoderWithDiscConfig):
        return config.autoencoder_config(), read_state_dict(path, "vae.", dtype, device)
    return config, read_state_dict(path, None, dtype, device)


def _read_config(file: Path) -> HARTAutoEncoderConfig:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a readable JSON file ({error})") from error
    classes = {c.model_type: c for c in (HARTAutoEncoderConfig, HARTAutoEncoderWithDiscConfig)}
    model_type = fields.get("model_type") if isinstance(fields, dict) else None
    if model_type not in classes:
        expected = " or ".join(f"'{name}'" for name in classes)
        raise CheckpointError(f"{file}: model_type is {model_type!r}, expected {expected}")
    try:
        return classes[model_type].from_dict(fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error


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
