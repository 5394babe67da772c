"""Which of a model's modules the engine may execute itself: those that are nothing but themselves.

The others are called, see ``hart.utils.adapted``.
"""

from __future__ import annotations

from torch import nn

from hart.modules.diffusion import network
from hart.modules.diffusion.diffloss import DiffLoss
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

_ROTARY = (rope.LlamaRotaryEmbedding, rope.LlamaRotaryEmbedding1D)
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
    *_ROTARY,
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
    DiffLoss,
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
        and is_bare_tree(model.blocks, *_OF_BLOCKS)
        and all(block.attn.qkv_is_bare for block in model.blocks)
        and _are_in_place(model)
    )


def _are_in_place(model: StageTransformer) -> bool:
    """Whether a block's place is its number, and one table of positions serves all of them."""
    settings = {
        tuple((r.base, r.scaling_factor) for r in block.attn.children() if is_bare(r, *_ROTARY))
        for block in model.blocks
    }
    numbers = [block.block_idx for block in model.blocks]
    return numbers == list(range(model.depth)) and len(settings) <= 1


def head_is_bare(model: StageTransformer) -> bool:
    """Whether guided hidden states give the guided logits: the head is linear."""
    own = has_own_methods(model, "guided_logits", "get_logits")
    return own and is_bare(model.head, nn.Linear)


def denoiser_is_bare(model: StageTransformer) -> bool:
    """Whether the diffusion head's network may be run without what is the same in every step."""
    own = has_own_methods(model, "residual", "residual_condition")
    return own and is_bare_tree(model.diffloss, *_OF_DIFFUSION)


def decoder_is_bare(vae: HARTAutoEncoder) -> bool:
    """Whether the decoder's convolutions may be run otherwise, in evaluation mode."""
    return (
        has_own_methods(vae, "fhat_to_img", "_decode")
        and not vae.decoder.training
        and is_bare_tree(vae.decoder, *_OF_DECODER)
        and is_bare(vae.post_quant_conv, nn.Conv2d)
        and all(_keeps_size(m) for m in vae.decoder.modules() if isinstance(m, nn.Conv2d))
    )


def _keeps_size(conv: nn.Conv2d) -> bool:
    """Whether it is as the decoder makes it; some pad with the other border, for seamless tiles."""
    plain = conv.padding_mode == "zeros" and conv.groups == 1
    return plain and conv.stride == conv.dilation == (1, 1)
