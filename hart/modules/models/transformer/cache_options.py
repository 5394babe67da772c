"""The options of the feature cache that model classes take; they stand in ``networks.caching``."""

from hart.modules.networks.caching.cache_options import (
    OPTION_NAMES,
    add_cache_arguments,
    resolve_cache_config,
    resolve_use_cache,
)

__all__ = ["OPTION_NAMES", "add_cache_arguments", "resolve_cache_config", "resolve_use_cache"]
