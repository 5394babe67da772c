"""Quantizers of the image autoencoder."""

from hart.modules.models.autoencoder.quantize.hart_hybrid_quantize import HARTHybridQuantizer
from hart.modules.models.autoencoder.quantize.var_quantize_multiple_res import VectorQuantizer2

__all__ = ["HARTHybridQuantizer", "VectorQuantizer2"]
