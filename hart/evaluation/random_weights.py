"""A pipeline without a checkpoint: known shapes, random weights, random text features.

What it draws is noise, but it computes exactly as much as a trained model of the same shapes. So it
tells how fast one will be and, with an assumed similarity table, what caching would save.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from hart.evaluation.random_shapes import RANDOM_SHAPES
from hart.modules.models.autoencoder import HARTAutoEncoder, HARTAutoEncoderConfig
from hart.modules.models.autoencoder.vqvae import VQVAE
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.configuration_var import VARForC2IConfig
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.stage_transformer import StageTransformer
from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.numbers import integer
from hart.modules.networks.caching.similarity import SimilarityTables, is_similarity
from hart.pipeline import HARTPipeline, VARPipeline
from hart.pipeline.loading import resolve_place

TEXT_VOCABULARY = 512
_CLASSES: dict[type, tuple[Any, Any]] = {
    HARTForT2IConfig: (HARTForT2IEnhanced, HARTAutoEncoder),
    VARForC2IConfig: (VARForC2IEnhanced, VQVAE),
}


def random_config(shape: str) -> HARTForT2IConfig | VARForC2IConfig:
    """The transformer's configuration; ValueError for an unknown shape."""
    if shape not in RANDOM_SHAPES:
        raise ValueError(f"unknown shape {shape!r}; known are {', '.join(RANDOM_SHAPES)}")
    sizes = RANDOM_SHAPES[shape]
    config_class = VARForC2IConfig if sizes.draws == "classes" else HARTForT2IConfig
    return config_class(**sizes.transformer)


def random_pipeline(
    shape: str,
    seed: int = 0,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    cache: str | CacheConfig | None = None,
    drawn_there: bool = False,
) -> Any:
    """A pipeline of a known shape with random weights and random text features.

    The weights are made in ``dtype`` on ``device``, one copy of them. The same seed gives the same
    model on every device and, up to rounding, in every dtype.

    Args:
        shape: a key of :data:`RANDOM_SHAPES`.
        seed: of the weights and the text features.
        device, dtype, cache: as for :meth:`HARTPipeline.from_pretrained`.
        drawn_there: draw the weights on ``device``, which is faster on a GPU; they are others.

    Returns:
        A :class:`HARTPipeline` or, for a shape of VAR's, a :class:`VARPipeline`.

    Raises:
        ValueError: unknown shape, device or preset, or a dtype that the device cannot compute in.
    """
    config = random_config(shape)
    device, dtype = resolve_place(device, dtype)
    generator = torch.Generator(device if drawn_there else "cpu")
    generator.manual_seed(integer("seed", seed))
    sizes: dict[str, Any] = {"vocab_size": config.vocab_size, "z_channels": config.z_channels}
    autoencoder_config = HARTAutoEncoderConfig(
        v_patch_nums=config.patch_nums,
        quantizer_type="var" if isinstance(config, VARForC2IConfig) else "var_hybrid",
        **sizes,
        **RANDOM_SHAPES[shape].autoencoder,
    )
    model_class, vae_class = _CLASSES[type(config)]
    model = _build(model_class, config, device, dtype, generator)
    model.attach_autoencoder(_build(vae_class, autoencoder_config, device, dtype, generator))
    if cache is not None:
        model.set_cache_config(cache)
    if isinstance(config, VARForC2IConfig):
        return VARPipeline(model)
    text_model = RandomTextEncoder(config.context_dim, generator).to(device)
    return HARTPipeline(model, text_model, WordTokenizer(), system_prompt="")


def _build(model_class, config, device: torch.device, dtype: torch.dtype, generator):
    """A model in evaluation mode that never exists in another dtype or on another device."""
    with torch.device("meta"):
        model = model_class(config)
    model = model.to(dtype).to_empty(device=device).eval()
    _fill(model, generator)
    return model


def _normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device=generator.device)


@torch.no_grad()
def _fill(model, generator: torch.Generator) -> None:
    """Matrices and kernels keep the scale of their input; norms and biases do nothing."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            values = _normal(parameter.shape, generator)
            parameter.copy_(values.mul_(parameter[0].numel() ** -0.5))
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    for buffer in model.buffers():
        buffer.zero_()
    if isinstance(model, StageTransformer):
        model._init_weights(model)  # the constants of its geometry


def assumed_similarity(model: HARTForT2IEnhanced, similarity: float) -> SimilarityTables:
    """Tables of one similarity for everything; ValueError unless it is within [-1, 1]."""
    if not is_similarity(similarity):
        raise ValueError(f"the assumed similarity must be within [-1, 1], got {similarity!r}")
    similarity = similarity or -1e-9  # an entry of 0 would mean "not measured"
    empty = SimilarityTables.empty(model.depth, model.schedule)
    attn, mlp = ([[similarity] * len(row) for row in empty.site(site)] for site in ("attn", "mlp"))
    return SimilarityTables(attn, mlp, assumed=True)


class WordTokenizer:
    """One id per word, by its checksum; what ``encode_prompts`` needs of a tokenizer."""

    pad_token_id = 0

    def __call__(
        self, text: str, max_length: int = 0, padding: str = "", truncation: bool = False,
        return_tensors: str = "", verbose: bool = True,
    ) -> SimpleNamespace:  # fmt: skip
        """``input_ids`` of one text, a tensor (1, n) if ``return_tensors`` is given."""
        ids = [1 + zlib.crc32(word.encode()) % (TEXT_VOCABULARY - 1) for word in text.split()]
        if truncation:
            ids = ids[:max_length]
        if padding == "max_length":
            ids += [self.pad_token_id] * (max_length - len(ids))
        rows = torch.tensor([ids], dtype=torch.int64, device="cpu") if return_tensors else ids
        return SimpleNamespace(input_ids=rows)


class RandomTextEncoder(nn.Module):
    """A random feature per token id; what ``encode_prompts`` needs of a text model."""

    is_a_stand_in = True

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("features", _normal((TEXT_VOCABULARY, width), generator))

    @property
    def device(self) -> torch.device:
        return self.get_buffer("features").device

    def forward(
        self, ids: torch.Tensor, attention_mask=None, output_hidden_states=True
    ) -> SimpleNamespace:
        """Ids (B, n) to ``hidden_states`` with one entry, (B, n, E)."""
        return SimpleNamespace(hidden_states=(self.get_buffer("features")[ids],))
