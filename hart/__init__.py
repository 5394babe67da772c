"""HART text-to-image inference with VAR-style feature caching.

The public names are imported when they are first used, so that ``import hart`` is immediate.
"""

from hart.lazy import lazy_names
from hart.version import __version__

TYPE_CHECKING = False  # type checkers take it for True; importing it from typing costs 10 ms
if TYPE_CHECKING:
    from hart.modules.models.transformer.configuration import HARTForT2IConfig as HARTForT2IConfig
    from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I as HARTForT2I
    from hart.modules.models.transformer.hart_transformer_t2i_enhanced import (
        HARTForT2IEnhanced as HARTForT2IEnhanced,
    )
    from hart.modules.models.transformer.var_transformer_c2i import VARForC2I as VARForC2I
    from hart.modules.models.transformer.var_transformer_c2i_enhanced import (
        VARForC2IEnhanced as VARForC2IEnhanced,
    )
    from hart.modules.networks.caching.config import CacheConfig as CacheConfig
    from hart.pipeline import HARTPipeline as HARTPipeline
    from hart.pipeline import VARPipeline as VARPipeline

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "hart.modules.models.transformer.configuration": ("HARTForT2IConfig",),
        "hart.modules.models.transformer.hart_transformer_t2i": ("HARTForT2I",),
        "hart.modules.models.transformer.hart_transformer_t2i_enhanced": ("HARTForT2IEnhanced",),
        "hart.modules.models.transformer.var_transformer_c2i": ("VARForC2I",),
        "hart.modules.models.transformer.var_transformer_c2i_enhanced": ("VARForC2IEnhanced",),
        "hart.modules.networks.caching.config": ("CacheConfig",),
        "hart.pipeline": ("HARTPipeline", "VARPipeline"),
    },
)
__all__ += ["__version__"]
