"""Text models of ``transformers`` and their tokenizers: checked here, then loaded there.

The library believes a folder's sizes and answers nonsense with almost any exception. So the folder
is compared with the headers of its weights first, and whatever it then raises is a
``CheckpointError`` that names the folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.activations import ACT2FN

from hart.utils.errors import CheckpointError, one_line
from hart.utils.fields import (
    CONFIG_FILE,
    GENERAL_FIELDS,
    Checked,
    Choice,
    Field,
    Flag,
    Items,
    Number,
    Optional,
    Text,
    Whole,
    check_fields,
)
from hart.utils.json_files import MAX_CONFIG_BYTES, MAX_VOCABULARY_BYTES, read_json_object
from hart.utils.weights import WEIGHT_DTYPES, is_finite, read_headers

MAX_BUFFER_BYTES = 1 << 27
"""Of what a model computes from its configuration alone, such as masks of all its positions."""

MAX_MISSING_NUMBERS = 1 << 22
"""That a model may have beside those of its weight files until they are compared one by one."""

_RATE, _MAYBE, _TOKEN = Number(0, 1), Optional(Flag()), Optional(Whole(-1, 1 << 24))


def _finite(value: object) -> None:
    """Refuse numbers in lists and mappings that are not finite."""
    values = value.values() if isinstance(value, Mapping) else value
    for inner in values if isinstance(values, (list, type({}.values()))) else ():
        _finite(inner)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError


_ROPE = Optional(Checked(lambda value: _finite(dict(value)), "an object of finite numbers"))


def _known(model_type: object) -> None:
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ValueError


TEXT_MODEL_FIELDS: dict[str, Field] = GENERAL_FIELDS | {
    "model_type": Checked(_known, "a model type that transformers knows"),
    "hidden_size": Whole(1, 1 << 17),
    "intermediate_size": Whole(1, 1 << 20),
    "num_hidden_layers": Whole(1, 1 << 10),
    "num_attention_heads": Whole(1, 1 << 12),
    "num_key_value_heads": Optional(Whole(1, 1 << 12)),
    "head_dim": Optional(Whole(1, 1 << 14)),
    "vocab_size": Whole(1, 1 << 24),
    "max_position_embeddings": Whole(1, 1 << 26),
    "rms_norm_eps": Number(1e-12, 1),
    "layer_norm_eps": Number(1e-12, 1),
    "initializer_range": Number(),
    "rope_theta": Number(1, 1e12),
    "rope_parameters": _ROPE,
    "rope_scaling": _ROPE,
    "attention_dropout": _RATE,
    "hidden_act": Choice(tuple(ACT2FN)),
    "layer_types": Optional(Items(Text(), 1, 1 << 10)),
    "sliding_window": Optional(Whole(1, 1 << 26)),
    "use_sliding_window": _MAYBE,
    "max_window_layers": Optional(Whole(0, 1 << 20)),
    "use_cache": _MAYBE,
    "bos_token_id": _TOKEN,
    "pad_token_id": _TOKEN,
}
"""Fields of the usual text models; what others have, the library checks."""

_SIDE = Choice(("left", "right"))
TOKENIZER_FIELDS: dict[str, Field] = {
    "model_max_length": Number(1, 1e31),  # 1e30 stands for "no limit" in published files
    "padding_side": _SIDE,
    "truncation_side": _SIDE,
    "tokenizer_class": Optional(Text()),
    "clean_up_tokenization_spaces": _MAYBE,
    "split_special_tokens": _MAYBE,
    "add_prefix_space": _MAYBE,
    "add_bos_token": _MAYBE,
    "add_eos_token": _MAYBE,
}

_LAYER = re.compile(r"(.*\.)?layers\.(\d+)\.")
_EMBEDDING = "embed_tokens.weight"


def load_part(kind: str, folder: Path, load: Callable[..., Any], **options: Any) -> Any:
    """``load(folder)``, whose every exception is a ``CheckpointError``; no code is fetched."""
    try:
        return load(folder, local_files_only=True, trust_remote_code=False, **options)
    except (KeyboardInterrupt, SystemExit):
        raise
    # Damaged folders make the library fail with almost any exception; the tokenizers' panics are
    # not even of the class Exception.
    except BaseException as error:
        raise CheckpointError(
            f"{folder}: cannot load the {kind} ({type(error).__name__}: {one_line(error)})"
        ) from error


def load_text_model(kind: str, folder: Path, auto_class: Any, **options: Any) -> Any:
    """``from_pretrained`` of one of transformers' auto classes, after the folder is checked.

    Raises:
        CheckpointError: a file is missing or damaged, a field has a value that is not allowed, the
            configuration asks for other sizes than the weights have, or a number is not finite.
    """
    _check_json_files(folder)
    content = read_json_object(folder / CONFIG_FILE)
    headers = read_headers(folder)
    config = load_part(kind, folder, AutoConfig.from_pretrained)
    if "quantization_config" not in content:
        _check_sizes(folder, config, headers)
        _check_built(kind, folder, config, auto_class, headers)
    loaded = load_part(kind, folder, auto_class.from_pretrained, **options)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    for name, parameter in model.named_parameters():
        if not is_finite(parameter):
            raise CheckpointError(f"{folder}: '{name}' of the {kind} has numbers that are infinite")
    return loaded


def load_tokenizer(kind: str, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, after its files are checked.

    Raises:
        CheckpointError: a file is missing or damaged, or the tokenizer knows no word.
    """
    _check_json_files(folder)
    tokenizer = load_part(kind, folder, AutoTokenizer.from_pretrained)
    if not token_ids(kind, folder, tokenizer):
        # From a folder without vocabulary files some versions make a tokenizer without vocabulary.
        raise CheckpointError(f"{folder}: no vocabulary of a {kind} in this folder")
    return tokenizer


def token_ids(kind: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of some words, padded; CheckpointError with the reason if that cannot be done."""

    def encode(folder: Path, **_: Any) -> list[int]:
        if not tokenizer("a picture").input_ids:
            return []
        words = ["a picture", "a picture of a fox"]
        return [i for ids in tokenizer(words, padding=True).input_ids for i in ids]

    return load_part(kind, folder, encode)


def check_token_ids(kind: str, folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raise CheckpointError if there are ids that an embedding of ``rows`` rows does not have."""
    ids = {*tokenizer.get_vocab().values(), *token_ids(kind, folder, tokenizer)}
    beyond = max(ids, default=0)
    if beyond >= rows or min(ids, default=0) < 0:
        raise CheckpointError(
            f"{folder}: {beyond + 1} entries, but the {kind} only has {rows} rows for them"
        )


def _check_json_files(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    for file in sorted(folder.glob("*.json")):
        is_config = file.name.endswith(CONFIG_FILE)
        content = read_json_object(file, MAX_CONFIG_BYTES if is_config else MAX_VOCABULARY_BYTES)
        if file.name == "tokenizer_config.json":
            check_fields(file, content, TOKENIZER_FIELDS)
        elif file.name == CONFIG_FILE:  # the tokenizer's class is found by it
            _check_nested_fields(file, content)


def _check_nested_fields(file: Path, content: Mapping[str, Any]) -> None:
    check_fields(file, content, TEXT_MODEL_FIELDS)
    for name, value in content.items():
        if name.endswith("_config") and isinstance(value, dict):
            _check_nested_fields(file, value)


def _check_sizes(
    folder: Path, config: PretrainedConfig, headers: Mapping[str, torch.Tensor]
) -> None:
    """Compare the fields that the usual names of weights tell, and the kinds of numbers."""
    for key, header in headers.items():
        if header.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(f"{folder}: '{key}' has dtype {header.dtype}, expected floats")
    text_config = config.get_text_config()
    layers = {match.groups() for match in map(_LAYER.match, headers) if match}
    stacks = {prefix for prefix, _ in layers}  # a model of text and pictures may have two
    found = {"num_hidden_layers": len(layers)} if len(stacks) == 1 else {}
    embeddings = [header for key, header in headers.items() if key.endswith(_EMBEDDING)]
    if len(embeddings) == 1 and embeddings[0].ndim == 2:
        found["vocab_size"], found["hidden_size"] = embeddings[0].shape
    for name, size in found.items():
        value = getattr(text_config, name, size)
        if value != size:
            raise CheckpointError(
                f"{folder / CONFIG_FILE}: {name} is {value}, in the weights it is {size}"
            )
    if (getattr(text_config, "num_hidden_layers", None) or 0) > len(headers):
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: num_hidden_layers is {text_config.num_hidden_layers}, "
            f"there are {len(headers)} weights"
        )


def _check_built(
    kind: str, folder: Path, config: PretrainedConfig, auto_class: Any,
    headers: Mapping[str, torch.Tensor],
) -> None:  # fmt: skip
    """Compare what the configuration asks for with what the files hold, without allocating it."""

    def build(folder: Path, local_files_only: bool, **options: Any) -> torch.nn.Module:
        with torch.device("meta"):
            return auto_class.from_config(config, **options)

    model = load_part(kind, folder, build)
    asked = sum(parameter.numel() for parameter in model.parameters())
    held = sum(header.numel() for header in headers.values())
    if asked > 2 * held + MAX_MISSING_NUMBERS:  # what is missing is named where it is looked for
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: asks for {asked} weights, the weight files hold {held}"
        )
    computed = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if computed > MAX_BUFFER_BYTES:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: asks for tables of {computed} bytes, at most "
            f"{MAX_BUFFER_BYTES} are made"
        )
