"""Finding the parts of a checkpoint.

Layout: ``<root>/llm`` the transformer, ``<root>/tokenizer`` the image autoencoder and, where the
checkpoint brings its own, ``<root>/text_model`` the text encoder with its tokenizer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart.modules.models.autoencoder import HARTAutoEncoderConfig, HARTAutoEncoderWithDiscConfig
from hart.modules.models.transformer.checkpoint import (
    EMA_FILE,
    check_model_type,
    resolve_autoencoder_folder,
)
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.var_checkpoint import VARFiles, is_var_checkpoint
from hart.modules.networks.caching.plan_files import plan_folder_of
from hart.modules.networks.caching.similarity_io import similarity_file_of
from hart.utils.checked_config import read_config
from hart.utils.constants import llm_system_prompt
from hart.utils.fields import CONFIG_FILE
from hart.utils.hub import local_path
from hart.utils.json_files import read_json_object
from hart.utils.weights import WEIGHT_FILE_NAMES, CheckpointError

PathLike = str | os.PathLike

SYSTEM_PROMPT_FILE = "system_prompt.txt"
MAX_SYSTEM_PROMPT_BYTES = 1 << 16
_AUTOENCODER_TYPES = (HARTAutoEncoderConfig.model_type, HARTAutoEncoderWithDiscConfig.model_type)


@dataclass(frozen=True)
class CheckpointFolders:
    """Where the parts of a checkpoint are.

    Attributes:
        root: the folder that holds ``llm``.
        llm: the transformer.
        text_model: the text encoder.
        text_tokenizer: its tokenizer.
        autoencoder: the image autoencoder.
    """

    root: Path
    llm: Path
    text_model: Path
    text_tokenizer: Path
    autoencoder: Path

    @property
    def similarity_files(self) -> tuple[Path, ...]:
        """Where the checkpoint's own similarity table may be; a new one goes to the first place."""
        return tuple(similarity_file_of(folder) for folder in (self.llm, self.root))

    @property
    def plan_folders(self) -> tuple[Path, ...]:
        """Where the checkpoint's own plans may be; new ones go to the first place."""
        return tuple(plan_folder_of(folder) for folder in (self.llm, self.root))

    @property
    def parts(self) -> dict[str, str]:
        """The places by name, for a report."""
        return {
            "model": str(self.llm),
            "text_model": str(self.text_model),
            "text_tokenizer": str(self.text_tokenizer),
        }


def locate_checkpoint(
    model_path: PathLike,
    text_model_path: PathLike | None = None,
    tokenizer_path: PathLike | None = None,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    **hub_options: Any,
) -> CheckpointFolders:
    """Find every part of a checkpoint before anything large is read.

    Each path is a local folder or the name of a model on the Hugging Face hub, which is fetched.

    Args:
        model_path: a checkpoint's root or its ``llm`` folder.
        text_model_path: the text encoder; by default the root's ``text_model``, else
            ``tokenizer_path`` if that folder holds a whole text encoder.
        tokenizer_path: the text tokenizer; by default the text encoder's folder. The folder of an
            image autoencoder is recognised and used as that.
        subfolder, revision: a folder inside ``model_path``, and its state on the hub.
        hub_options: how the hub's client fetches all of them, see
            :func:`hart.utils.hub.local_path`.

    Raises:
        CheckpointError: a part is missing or of another kind.
    """
    place = local_path(model_path, subfolder=subfolder, revision=revision, **hub_options)
    if is_var_checkpoint(place):
        raise CheckpointError(f"{model_path}: a VAR checkpoint, which draws classes: VARPipeline")
    llm = _transformer_folder(_local_folder(place))
    root = llm.absolute().parent
    tokenizer = None if tokenizer_path is None else _local_folder(tokenizer_path, **hub_options)
    if tokenizer is not None and _model_type(tokenizer) in _AUTOENCODER_TYPES:
        autoencoder, tokenizer = tokenizer, None
    else:
        autoencoder = _default_autoencoder(llm)
    if text_model_path is not None:
        text_model = _local_folder(text_model_path, **hub_options)
    else:
        text_model = _default_text_model(root, tokenizer)
    return CheckpointFolders(root, llm, text_model, tokenizer or text_model, autoencoder)


def _local_folder(path: PathLike, **options: Any) -> Path:
    folder = local_path(path, **options)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a folder, this is a file")
    return folder


def _transformer_folder(folder: Path) -> Path:
    llm = folder / "llm" if (folder / "llm").is_dir() else folder
    if not (llm / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: not a HART checkpoint; it has neither a folder 'llm' nor a config.json"
        )
    check_model_type(llm, (HARTForT2IConfig.model_type,))
    return llm


def _model_type(folder: Path) -> str | None:
    """The ``model_type`` of a folder's config; None without a config."""
    file = folder / CONFIG_FILE
    return read_json_object(file).get("model_type") if file.is_file() else None


def _default_text_model(root: Path, tokenizer: Path | None) -> Path:
    if (root / "text_model").is_dir():
        return root / "text_model"
    if tokenizer is not None and any((tokenizer / name).is_file() for name in WEIGHT_FILE_NAMES):
        return tokenizer
    raise CheckpointError(
        f"{root}: no folder 'text_model' in this checkpoint; "
        "give the text encoder's folder as text_model_path"
    )


def _default_autoencoder(llm: Path) -> Path:
    """Where the transformer's config says, else the folder ``tokenizer`` beside it."""
    config = read_config(llm, HARTForT2IConfig)
    folder = resolve_autoencoder_folder(config)
    assert folder is not None  # the configuration came from one
    if config.vae_path is not None and not folder.is_dir():
        raise CheckpointError(f"{llm / CONFIG_FILE}: vae_path names {folder}: no such folder")
    check_model_type(folder, _AUTOENCODER_TYPES)
    return folder


def find_similarity_file(folders: CheckpointFolders | VARFiles) -> Path | None:
    """The checkpoint's own similarity table; None if there is none.

    That is ``cache_similarity.json`` beside HART's transformer or in the root, and
    ``var_d16.cache_similarity.json`` beside VAR's ``var_d16.pth``.
    """
    return next((file for file in folders.similarity_files if file.is_file()), None)


def resolve_use_ema(folders: CheckpointFolders, use_ema: bool | None) -> bool:
    """Whether to read the averaged weights; None means if there are any.

    Raises:
        CheckpointError: they are required but not there.
    """
    present = (folders.llm / EMA_FILE).is_file()
    if use_ema and not present:
        raise CheckpointError(f"{folders.llm}: no {EMA_FILE} here; use_ema=True requires it")
    return present if use_ema is None else use_ema


def resolve_system_prompt(folders: CheckpointFolders, system_prompt: str | None) -> str:
    """The argument, else the checkpoint's ``system_prompt.txt``, else the library's own text.

    The file is taken byte for byte: a trained model depends on every character of it.

    Raises:
        CheckpointError: the file is not UTF-8 text, or has more than 64 KiB.
    """
    if system_prompt is not None:
        return system_prompt
    candidates = (folder / SYSTEM_PROMPT_FILE for folder in (folders.llm, folders.root))
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        return llm_system_prompt
    size = file.stat().st_size
    if size > MAX_SYSTEM_PROMPT_BYTES:
        raise CheckpointError(f"{file}: {size} bytes; at most {MAX_SYSTEM_PROMPT_BYTES} are read")
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: not UTF-8 text ({error})") from error
    if "\0" in text:
        raise CheckpointError(f"{file}: not UTF-8 text (it has NUL characters)")
    return text
