"""The functions of ``hart.utils`` under HART's own import path."""

from hart.utils.constants import (
    default_prompts,
    llm_system_prompt,
    max_batch_size,
    max_seq_len,
)
from hart.utils.device import get_device
from hart.utils.json_files import lru_json_load
from hart.utils.prompts import encode_prompts, tokenize_fn

__all__ = [
    "default_prompts",
    "encode_prompts",
    "get_device",
    "llm_system_prompt",
    "lru_json_load",
    "max_batch_size",
    "max_seq_len",
    "tokenize_fn",
]
