"""Large memory pages for tensors on Linux, which a program may ask torch for."""

from __future__ import annotations

import os

_VARIABLE = "THP_MEM_ALLOC_ENABLE"
"""Read by torch when it first allocates memory; it then marks tensors of 2 MiB and more."""


def prefer_huge_pages() -> None:
    """Let torch ask for pages of 2 MiB, unless the environment says otherwise.

    The decoder's maps of hundreds of MiB come anew from the system with every step, and are handed
    over page by page. It concerns the whole process, so that programs call this, and not what other
    programs import.
    """
    os.environ.setdefault(_VARIABLE, "1")


def prefers_huge_pages() -> bool:
    """Whether torch has been told to ask for them."""
    return os.environ.get(_VARIABLE) == "1"
