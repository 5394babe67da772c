"""Reading JSON files that are asked for again and again."""

from __future__ import annotations

import copy
import functools
import json
import os
from pathlib import Path
from typing import Any


def lru_json_load(fpath: str | os.PathLike[str]) -> Any:
    """The content of a JSON file, read again only after the file changed.

    The result is a copy, so the caller may edit it. The 16 files used last are kept.
    """
    status = os.stat(fpath)
    return copy.deepcopy(_load(os.path.abspath(fpath), status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=16)
def _load(path: str, mtime_ns: int, size: int) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))
