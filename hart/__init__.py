"""HART text-to-image inference with VAR-style feature caching.

The public names are imported when they are first used, so that ``import hart`` is immediate.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hart.version import __version__

if TYPE_CHECKING:
    from hart.modules.models.transformer.configuration import HARTForT2IConfig
    from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
    from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
    from hart.modules.models.transformer.var_transformer_c2i import VARForC2I
    from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
    from hart.modules.networks.caching.config import CacheConfig
    from hart.pipeline import HARTPipeline, VARPipeline

__all__ = [
    "CacheConfig",
    "HARTForT2I",
    "HARTForT2IConfig",
    "HARTForT2IEnhanced",
    "HARTPipeline",
    "VARForC2I",
    "VARForC2IEnhanced",
    "VARPipeline",
    "__version__",
]

_HOMES = {
    "CacheConfig": "hart.modules.networks.caching.config",
    "HARTForT2I": "hart.modules.models.transformer.hart_transformer_t2i",
    "HARTForT2IConfig": "hart.modules.models.transformer.configuration",
    "HARTForT2IEnhanced": "hart.modules.models.transformer.hart_transformer_t2i_enhanced",
    "HARTPipeline": "hart.pipeline",
    "VARForC2I": "hart.modules.models.transformer.var_transformer_c2i",
    "VARForC2IEnhanced": "hart.modules.models.transformer.var_transformer_c2i_enhanced",
    "VARPipeline": "hart.pipeline",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
