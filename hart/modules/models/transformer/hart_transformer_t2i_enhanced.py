"""HART with feature caching: the plain model with enhanced blocks and the cache's state."""

from __future__ import annotations

from hart.modules.models.transformer.feature_caching_mixin import FeatureCachingMixin
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.networks.basic_hart_enhanced import AdaLNSelfAttnEnhanced

__all__ = ["HARTForT2IEnhanced"]


class HARTForT2IEnhanced(FeatureCachingMixin, HARTForT2I):
    """:class:`HARTForT2I` whose blocks can reuse the previous stage's attention and MLP outputs.

    What is added is in :class:`FeatureCachingMixin`.
    """

    block_class = AdaLNSelfAttnEnhanced
