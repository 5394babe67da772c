"""HART with feature caching in ComfyUI. Imports without ComfyUI, where it does nothing."""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """What ComfyUI asks a package of nodes for."""
    from .nodes import HARTExtension

    return HARTExtension()
