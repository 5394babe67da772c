"""The image autoencoder. Importing it registers its classes with the transformers auto classes."""

from transformers import AutoConfig, AutoModel

from hart.modules.losses.vqgan import create_discriminator
from hart.modules.models.autoencoder.configuration import (
    HARTAutoEncoderConfig,
    HARTAutoEncoderWithDiscConfig,
)
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.autoencoder.hart_autoencoder_with_disc import HARTAutoEncoderWithDisc
from hart.modules.models.autoencoder.quantize import HARTHybridQuantizer
from hart.modules.models.autoencoder.quantize import VectorQuantizer2 as VARQuantizer
from hart.modules.models.autoencoder.vqvae import VQVAE
from hart.modules.networks.basic_vae import Decoder, Encoder

__all__ = [
    "VQVAE",
    "Decoder",
    "Encoder",
    "HARTAutoEncoder",
    "HARTAutoEncoderConfig",
    "HARTAutoEncoderWithDisc",
    "HARTAutoEncoderWithDiscConfig",
    "HARTHybridQuantizer",
    "VARQuantizer",
    "create_discriminator",
]

for _config_class, _model_class in (
    (HARTAutoEncoderConfig, HARTAutoEncoder),
    (HARTAutoEncoderWithDiscConfig, HARTAutoEncoderWithDisc),
):
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    AutoModel.register(_config_class, _model_class, exist_ok=True)
