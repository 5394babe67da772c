"""Constants, prompt encoding, safety check, image files and choice of device."""

from __future__ import annotations

from hart.utils.constants import (
    default_prompts,
    hart_system_prompt_sha256,
    is_hart_system_prompt,
    llm_system_prompt,
    max_batch_size,
    max_seq_len,
)
from hart.utils.device import default_device, get_device, resolve_dtype
from hart.utils.json_files import lru_json_load
from hart.utils.prompts import encode_prompts, tokenize_fn

__all__ = [
    "default_device",
    "default_prompts",
    "encode_prompts",
    "get_device",
    "hart_system_prompt_sha256",
    "is_hart_system_prompt",
    "llm_system_prompt",
    "lru_json_load",
    "max_batch_size",
    "max_seq_len",
    "resolve_dtype",
    "tokenize_fn",
]
