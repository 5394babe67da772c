"""Pipelines of random parts, and everything about their tensors that a draw must not change."""

from __future__ import annotations

import functools

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from hart.evaluation.random_weights import TEXT_VOCABULARY, WordTokenizer
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.pipeline import HARTPipeline
from hart.pipeline.options import ImageRequest
from tests.tiny_models import fill, tiny_model

PROMPT = "a red fox"
PRESETS = ("no-cache", "original", "ultra-fast", "hybrid")
"""One of each kind of plan: none, known before, found while drawing, with left-out tokens."""


def tiny_pipeline(
    dtype: torch.dtype = torch.float32, preset: str = "no-cache", engine: bool = True
) -> HARTPipeline:
    """Transformer, autoencoder and text encoder with weights, all in ``dtype``."""
    model = tiny_model(HARTForT2IEnhanced).to(dtype)
    torch.manual_seed(1)
    text = LlamaConfig(
        vocab_size=TEXT_VOCABULARY,
        hidden_size=model.context_dim,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    text_model = LlamaModel(text).to(dtype).eval()
    # With its first call transformers installs hooks of its own.
    text_model(torch.tensor([[1]]), output_hidden_states=True)
    pipeline = HARTPipeline(model, text_model, WordTokenizer(), system_prompt="")
    pipeline.use_engine = engine
    fill(model, 0.95)
    model.set_cache_config(preset)
    return pipeline


def picture(pipeline: HARTPipeline, preset: str | None = None) -> bytes:
    """The picture of the prompt, by the pipeline's preset or another one."""
    if preset is not None:
        pipeline.model.set_cache_config(preset)
    (result,) = pipeline.draw_together([ImageRequest(0, PROMPT, 11)])
    return result.image.tobytes()


@functools.cache
def expected_picture(dtype: torch.dtype, preset: str, engine: bool) -> bytes:
    """The first picture of a pipeline that nobody has used."""
    return picture(tiny_pipeline(dtype, preset, engine))


def parts(pipeline: HARTPipeline) -> dict[str, nn.Module]:
    """What is lent to a pipeline."""
    model = pipeline.model
    return {"transformer": model, "autoencoder": model.vae_proxy[0], "text": pipeline.text_model}


def everything(modules: dict[str, nn.Module]) -> dict[str, tuple]:
    """Bytes, format and place of every tensor, and the hooks and methods of every module."""
    found = {}
    for part, root in modules.items():
        for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
            found[f"{part}.{name}"] = (
                id(tensor),
                tensor.data_ptr(),
                tensor.dtype,
                tensor.device,
                tensor.stride(),
                tensor.is_inference(),
                tensor.requires_grad,
                tensor.grad,
                tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
            )
        for name, module in root.named_modules():
            hooks = {key: len(h) for key, h in vars(module).items() if key.endswith("_hooks")}
            replaced = sorted(key for key, value in vars(module).items() if callable(value))
            found[f"{part}.{name}()"] = (id(module), module.training, hooks, replaced)
    return found
