"""The weights of the golden cases: random numbers, drawn again from the case's seed.

One generator draws the parameters of a case in the order of their names, each as normal numbers
times a standard deviation plus a mean. The order of the operations is the recorded one: where torch
draws as it did then (AVX2 or more), every tensor is the recorded one bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

NORM_WEIGHT = (1.0, 0.1)
"""Mean and standard deviation of a norm's weight: any weight with one axis."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations; the first entry that ends a tensor's name counts.

    Args:
        fixed: the standard deviation itself.
        gains: for all others but the norms: times the square root of the number of inputs.
    """

    fixed: dict[str, float]
    gains: dict[str, float] = field(default_factory=dict)

    def of(self, name: str, shape: list[int]) -> tuple[float, float]:
        """Mean and standard deviation of a tensor."""
        std = _first(self.fixed, name)
        if std is not None:
            return (math.log(4) if name.endswith("scale_mul_1H11") else 0.0), std
        if len(shape) == 1:
            return NORM_WEIGHT
        return 0.0, (_first(self.gains, name) or 1.0) / math.sqrt(math.prod(shape[1:]))


def _first(values: dict[str, float], name: str) -> float | None:
    return next((value for ending, value in values.items() if name.endswith(ending)), None)


HART = Spread(
    {"q_bias": 0.2, "v_bias": 0.2, "bias": 0.1, "lvl_embed.weight": 0.3, "scale_shift_table": 0.4},
    {
        "qkv_proj.weight": 2.0,
        "head.weight": 0.5,
        "ada_lin.1.weight": 0.5,
        "adaLN_modulation.1.weight": 0.5,
        "final_layer.linear.weight": 0.35,
    },
)
VAR = Spread(
    {
        **{"q_bias": 0.2, "v_bias": 0.2, "bias": 0.1, "lvl_embed.weight": 0.3},
        **{"pos_1LC": 0.3, "pos_start": 0.3, "scale_mul_1H11": 0.3, "class_emb.weight": 1.0},
    },
    {"mat_qkv.weight": 1.5, "head.weight": 1.2, "ada_lin.1.weight": 0.6},
)
AUTOENCODER = Spread(
    {"bias": 0.05},
    {"decoder.conv_out.weight": 0.8, "post_quant_conv.weight": 1.0, "quant_conv.weight": 2.0},
)
TEXT_ENCODER = Spread({"bias": 0.1, "embed_tokens.weight": 1.0}, {"": 1.5})

SPREADS = {
    "tokenizer": AUTOENCODER,
    "llama-shared-aln": HART,
    "llama-no-aln": HART,
    "fastvar-select": HART,
    "text-encoder": TEXT_ENCODER,
    "var-small": VAR,
    "var-small-vae": AUTOENCODER,
}


@torch.inference_mode(False)
def draw_weights(
    case: str, shapes: dict[str, list[int]], seed: int, levels: list[int]
) -> dict[str, torch.Tensor]:
    """The state dict of a case, in float32 but for counters and levels.

    Args:
        shapes: of all tensors, by name.
        levels: number of tokens of each stage of the transformer, the text included.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name in sorted(shapes):
        value = _buffer(name, shapes[name], levels)
        if value is None:
            value = _parameter(name, shapes[name], SPREADS[case], generator)
        state[name] = value
    if case == "var-small":
        state["blocks.0.attn.scale_mul_1H11"][0, 0] = 5.0  # above the limit of log(100)
    if case == "var-small-vae":
        _finish_var_autoencoder(state, generator)
    return state


def _parameter(
    name: str, shape: list[int], spread: Spread, generator: torch.Generator
) -> torch.Tensor:
    value = torch.randn(shape, generator=generator)
    if name.endswith("quantize.embedding.weight"):  # codes of unlike length
        return value * 0.3 * (0.6 + 2.0 * torch.rand(shape[0], 1, generator=generator))
    mean, std = spread.of(name, shape)
    return value * std + mean


def _buffer(name: str, shape: list[int], levels: list[int]) -> torch.Tensor | None:
    """What is not drawn, or None."""
    level = torch.arange(len(levels)).repeat_interleave(torch.tensor(levels, dtype=torch.long))
    match name.rpartition(".")[2]:
        case "lvl_1L":
            return level[None]
        case "attn_bias_for_masking":
            return torch.where(level[:, None] >= level, 0.0, -torch.inf)[None, None]
        case "num_batches_tracked":
            return torch.tensor(0)
        case "running_var":
            return torch.ones(shape)
        case "running_mean" | "zero_k_bias" | "ema_vocab_hit_SV":
            return torch.zeros(shape)
    return None


def _finish_var_autoencoder(state: dict[str, torch.Tensor], generator: torch.Generator) -> None:
    """Round what was recorded in 8 bits: the larger weights of encoder and decoder; usages."""
    for name, value in state.items():
        if value.dim() == 4 and value.numel() >= 1024 and name.startswith(("encoder.", "decoder.")):
            state[name] = value.to(torch.float8_e4m3fn).float()
    usages = state["quantize.ema_vocab_hit_SV"]
    usages.copy_(3.0 * torch.rand(usages.shape, generator=generator))
