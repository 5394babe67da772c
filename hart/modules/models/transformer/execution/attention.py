"""The engine's attention: the model's kernel, or on some processors small matrix products.

torch's fused kernel multiplies in bfloat16 at the speed of float32 on processors that have AVX512
instructions for bfloat16 but no AMX (measured with torch 2.13, see ``docs/engine.md``). There plain
matrix products are faster, as long as the scores of a piece stay in the processor's cache.
"""

from __future__ import annotations

import torch

from hart.modules.networks.attention import attend as attend_by_kernel
from hart.utils.device import bfloat16_is_fast, has_amx

QUERIES_AT_ONCE = 128
SCORES_AT_ONCE = 1_250_000
"""Largest number of scores in a piece: 2.5 MB."""


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    flash_if_available: bool = True,
) -> torch.Tensor:
    """Softmax attention of queries (rows, H, n, d) on keys and values (rows, H, m, d)."""
    if multiplies_faster(q):
        return attend_in_pieces(q, k, v, scale)
    return attend_by_kernel(q, k, v, scale, flash_if_available=flash_if_available)


def multiplies_faster(q: torch.Tensor) -> bool:
    """Whether :func:`attend_in_pieces` is faster than torch's kernel for such queries."""
    on_cpu = q.device.type == "cpu" and q.dtype is torch.bfloat16
    return on_cpu and not has_amx() and bfloat16_is_fast()


def attend_in_pieces(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> torch.Tensor:
    """As :func:`attend`, some heads and queries at a time.

    Scores and weights are rounded to the tensors' dtype, as by ``transformers``' eager attention;
    torch's kernel keeps them in float32.
    """
    queries, keys, values = (t.flatten(0, 1) for t in (q * scale, k, v))  # (rows * H, ., d)
    n, out = q.shape[2], torch.empty_like(queries)
    size = min(n, QUERIES_AT_ONCE)
    heads = max(1, SCORES_AT_ONCE // (size * k.shape[2]))
    for head in range(0, len(queries), heads):
        of = slice(head, head + heads)
        transposed = keys[of].transpose(1, 2)
        for start in range(0, n, size):
            piece = slice(start, start + size)
            weights = torch.bmm(queries[of, piece], transposed).softmax(dim=-1)
            out[of, piece] = torch.bmm(weights, values[of])
    return out.view(q.shape)
