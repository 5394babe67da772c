"""VAR with feature caching: the plain model with enhanced blocks and the cache's state."""

from __future__ import annotations

from hart.modules.models.transformer.feature_caching_mixin import FeatureCachingMixin
from hart.modules.models.transformer.var_transformer_c2i import VARForC2I
from hart.modules.networks.basic_var import ClassAdaLNSelfAttnEnhanced

__all__ = ["VARForC2IEnhanced"]


class VARForC2IEnhanced(FeatureCachingMixin, VARForC2I):
    """:class:`VARForC2I` whose blocks can reuse the previous stage's attention and MLP outputs.

    What is added is in :class:`FeatureCachingMixin`.
    """

    block_class = ClassAdaLNSelfAttnEnhanced
