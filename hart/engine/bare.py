"""Which of a model's modules the engine may execute itself: those that are nothing but themselves.

The others are called, see ``hart.utils.adapted``.
"""

from __future__ import annotations

from torch import nn

from hart.modules.diffusion import network
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.stage_transformer import StageTransformer
from hart.modules.networks import (
    attention,
    basic_hart,
    basic_hart_enhanced,
    basic_vae,
    basic_var,
    norms,
    rope,
)
from hart.modules.networks.cross_attention import MultiHeadCrossAttention
from hart.modules.networks.utils import DropPath
from hart.utils.adapted import has_own_methods, is_bare, is_bare_tree

_OF_BLOCKS = (
    attention.LlamaAttention,
    attention.SelfAttention,
    basic_hart.AdaLNSelfAttn,
    basic_hart.FFN,
    basic_hart.LlamaMLP,
    basic_hart_enhanced.AdaLNSelfAttnEnhanced,
    basic_hart_enhanced.FFNEnhanced,
    basic_hart_enhanced.LlamaAttentionEnhanced,
    basic_hart_enhanced.LlamaMLPEnhanced,
    basic_hart_enhanced.SelfAttentionEnhanced,
    basic_var.ClassAdaLNSelfAttn,
    basic_var.ClassAdaLNSelfAttnEnhanced,
    norms.LlamaRMSNormFused,
    rope.LlamaRotaryEmbedding,
    rope.LlamaRotaryEmbedding1D,
    DropPath,
    MultiHeadCrossAttention,
    nn.Dropout,
    nn.Identity,
    nn.LayerNorm,
    nn.Linear,
    nn.ModuleList,
    nn.Sequential,
    nn.SiLU,
)
_OF_DIFFUSION = (
    network.FinalLayer,
    network.ResBlock,
    network.SimpleMLPAdaLN,
    network.TimestepEmbedder,
    nn.LayerNorm,
    nn.Linear,
    nn.ModuleList,
    nn.Sequential,
    nn.SiLU,
)
_OF_DECODER = (
    basic_vae.AttnBlock,
    basic_vae.Decoder,
    basic_vae.Level,
    basic_vae.Middle,
    basic_vae.ResnetBlock,
    basic_vae.Upsample2x,
    nn.Conv2d,
    nn.Dropout,
    nn.GroupNorm,
    nn.Identity,
    nn.ModuleList,
)


def blocks_are_bare(model: StageTransformer) -> bool:
    """Whether the blocks' steps may be run in another order and in pieces, in evaluation mode."""
    return (
        not model.training
        and has_own_methods(model, "run_blocks")
        and is_bare_tree(model.blocks, *_OF_BLOCKS)
        and all(block.attn.qkv_is_bare for block in model.blocks)
    )


def head_is_bare(model: StageTransformer) -> bool:
    """Whether guided hidden states give the guided logits: the head is linear."""
    own = has_own_methods(model, "guided_logits", "get_logits")
    return own and is_bare(model.head, nn.Linear)


def denoiser_is_bare(model: StageTransformer) -> bool:
    """Whether the diffusion head's network may be run without what is the same in every step."""
    own = has_own_methods(model, "residual", "residual_condition")
    return own and is_bare_tree(model.diffloss.net, *_OF_DIFFUSION)


def decoder_is_bare(vae: HARTAutoEncoder) -> bool:
    """Whether the decoder's convolutions may be run otherwise, in evaluation mode."""
    return (
        has_own_methods(vae, "fhat_to_img", "_decode")
        and not vae.decoder.training
        and is_bare_tree(vae.decoder, *_OF_DECODER)
        and is_bare(vae.post_quant_conv, nn.Conv2d)
    )
