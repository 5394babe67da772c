"""What a block does token by token, as functions that can be compiled.

Between the matrix products there are many small operations: norm, modulation, rotary, gate, gamma.
Compiled, they become a few kernels, which saves launches on a GPU and memory traffic everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hart.modules.models.transformer.execution.streams import Tables
from hart.modules.networks.basic_hart import AdaLNSelfAttn
from hart.modules.networks.rope import apply_rotary_pos_emb


def queries_keys_values(
    block: AdaLNSelfAttn,
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    tables: Tables | None,
) -> tuple[torch.Tensor, ...]:
    """Queries, keys (both after rotary) and values (r, H, n, d) of the residual stream.

    Args:
        x: (r, n, C), or (r / 2, n, C) if both halves of the batch hold the same.
        scale, shift: modulation (r, 1, C), None in plain blocks.
        tables: rotary cosines and sines (r, n, d), None without.
    """
    q, k, v = block.attn.queries_keys_values(block.norm_and_modulate(x, scale, shift))
    if tables is None:
        return q, k, v
    if len(tables[0]) > len(x):
        q, k, v = (t.repeat(2, 1, 1, 1) for t in (q, k, v))
    q, k = apply_rotary_pos_emb(q, k, *tables, unsqueeze_dim=1)
    return q, k, v


def attention_output(
    block: AdaLNSelfAttn, attended: torch.Tensor, gamma: torch.Tensor | None
) -> torch.Tensor:
    """What attention adds to the residual stream, from its heads' results (r, n, C)."""
    out = block.attn.proj(attended)
    return out if gamma is None else out * gamma


def mlp_output(
    block: AdaLNSelfAttn,
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    gamma: torch.Tensor | None,
) -> torch.Tensor:
    """What the MLP adds to the residual stream (r, n, C)."""
    out = block.ffn(block.norm_and_modulate(x, scale, shift))
    return out if gamma is None else out * gamma


@dataclass(frozen=True)
class TokenWise:
    """The functions above, as they are or compiled."""

    queries_keys_values: Callable = queries_keys_values
    attention_output: Callable = attention_output
    mlp_output: Callable = mlp_output


@functools.cache
def compiled(backend: str = "inductor") -> TokenWise:
    """The functions through ``torch.compile``, for any number of tokens; once per process."""
    compiler = torch.compile(dynamic=True, backend=backend)
    return TokenWise(
        compiler(queries_keys_values), compiler(attention_output), compiler(mlp_output)
    )
