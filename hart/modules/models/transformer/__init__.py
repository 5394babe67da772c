"""HART's transformer and its configuration classes, and what HART's own scripts import from here.

Importing it registers the classes with the transformers auto classes, as HART's package does.
"""

from hart.modules.diffusion.diffloss import DiffLoss
from hart.modules.models.autoencoder import (
    HARTAutoEncoder,
    HARTAutoEncoderWithDisc,
    HARTHybridQuantizer,
)
from hart.modules.models.transformer.configuration import (
    HARTForC2IConfig,
    HARTForT2IConfig,
    VARTransformerConfig,
    VARTransformerT2IConfig,
)
from hart.modules.models.transformer.hart_transformer_t2i import (
    CopyableGenerator,
    HARTForT2I,
    SharedAdaLin,
    mask_by_order,
)
from hart.modules.networks.basic_hart import (
    AdaLNBeforeHead,
    AdaLNSelfAttn,
    LlamaRMSNormFused,
    TimestepEmbedder,
)
from hart.modules.networks.utils import gumbel_softmax_with_rng, sample_with_top_k_top_p_
from hart.utils.device import get_device

__all__ = [
    "AdaLNBeforeHead",
    "AdaLNSelfAttn",
    "CopyableGenerator",
    "DiffLoss",
    "HARTAutoEncoder",
    "HARTAutoEncoderWithDisc",
    "HARTForC2IConfig",
    "HARTForT2I",
    "HARTForT2IConfig",
    "HARTHybridQuantizer",
    "LlamaRMSNormFused",
    "SharedAdaLin",
    "TimestepEmbedder",
    "VARTransformerConfig",
    "VARTransformerT2IConfig",
    "get_device",
    "gumbel_softmax_with_rng",
    "mask_by_order",
    "sample_with_top_k_top_p_",
]
