"""A pipeline's cache under the names that ``diffusers`` has for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline.savings import caching_lines


@contextlib.contextmanager
def caching_for_a_while(model: Any) -> Iterator[None]:
    """A model's cache is in use inside; its configuration and switch are as before afterwards."""
    before, in_use = model.cache_config, model.use_cache
    model.use_cache = True
    try:
        yield
    finally:
        model.set_cache_config(before)
        model.use_cache = in_use


class CachingNames:
    """In front of a pipeline: what it says about caching is its transformer's."""

    @property
    def transformer(self) -> Any:
        """The transformer itself."""
        raise NotImplementedError

    def set_cache_config(self, config: CacheConfig | str) -> None:
        """Use a preset by name, or a configuration, from the next image on."""
        self.transformer.set_cache_config(config)

    def enable_cache(self, config: CacheConfig | str) -> None:
        """As :meth:`set_cache_config`; ValueError if caching is enabled already."""
        self.transformer.enable_cache(config)

    def disable_cache(self) -> None:
        """Draw without caching; warns if it is not enabled."""
        self.transformer.disable_cache()

    @property
    def is_cache_enabled(self) -> bool:
        """Whether the transformer's cache is in use."""
        return self.transformer.is_cache_enabled

    def cache_summary(self) -> str:
        """What caching has saved in the last run, and by what, in words."""
        return "\n".join(caching_lines(self.transformer))
