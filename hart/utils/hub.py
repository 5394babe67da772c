"""Names of models on the Hugging Face hub, taken wherever a local checkpoint is."""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from hart.utils.errors import CheckpointError, one_line
from hart.utils.names import suggestion

HUB_OPTIONS = ("revision", "cache_dir", "token", "force_download", "local_files_only")
"""How a model is fetched, named as in ``transformers``; a local checkpoint needs none of them."""

# A repository, or one of its .pth files (a published folder of VAR's holds several models).
_HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>[\w.-]+\.pth))?")


def is_hub_name(path: str | os.PathLike) -> bool:
    """Whether a path that does not exist here may be a model on the hub."""
    return bool(_HUB_NAME.fullmatch(os.fspath(path))) and not Path(path).exists()


def local_path(path: str | os.PathLike, *, subfolder: str | None = None, **options: Any) -> Path:
    """Where a checkpoint is on this machine; a model on the hub is fetched first.

    Args:
        path: a local folder or file, or ``organisation/model``, or ``organisation/model/file.pth``.
        subfolder: a folder inside it that is meant.
        options: :data:`HUB_OPTIONS`, for the hub's client; None is its own default.

    Raises:
        CheckpointError: there is no such folder or file, or it cannot be fetched.
        TypeError: an option that is none of them.
    """
    unknown = sorted(set(options) - set(HUB_OPTIONS))
    if unknown:
        known = ("subfolder", *HUB_OPTIONS)
        hint = suggestion(unknown[0], known)
        raise TypeError(f"unknown option {unknown[0]!r}; known are {', '.join(known)}{hint}")
    place = Path(path).expanduser()
    match = _HUB_NAME.fullmatch(os.fspath(path))
    if match and is_hub_name(path):
        place = _fetch(match["name"], match["file"], options)
    if subfolder:
        place = place / subfolder
    if not place.exists():
        raise CheckpointError(f"{place}: no such {'file' if place.suffix == '.pth' else 'folder'}")
    return place


def take_hub_options(keywords: MutableMapping[str, Any]) -> dict[str, Any]:
    """Remove the options of :func:`local_path` from the keywords of a ``from_pretrained``."""
    names = [name for name in ("subfolder", *HUB_OPTIONS) if name in keywords]
    return {name: keywords.pop(name) for name in names}


def _fetch(name: str, file: str | None, options: dict[str, Any]) -> Path:
    """The folder of a model on the hub, or its ``file`` with the autoencoders beside it."""
    from huggingface_hub import snapshot_download  # only needed here, and slow to import

    wanted = {key: value for key, value in options.items() if value is not None}
    if file is not None:
        wanted["allow_patterns"] = [file, "vae*.pth"]
    try:
        folder = Path(snapshot_download(name, **wanted))
    # The hub's client fails with exceptions of several libraries.
    except Exception as error:
        reason = one_line(str(error).partition("\n")[0])
        raise CheckpointError(
            f"{name}: no such folder, and it could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {reason})"
        ) from error
    return folder / file if file is not None else folder
