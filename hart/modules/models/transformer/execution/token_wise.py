"""What a block does token by token, as functions that can be compiled.

Between the matrix products there are many small operations: norm, modulation, rotary, gate.
Compiled, they become a few kernels, which saves launches on a GPU and memory traffic everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from hart.modules.models.transformer.execution.streams import Tables
from hart.modules.networks.attention import MAX_LOG_TEMPERATURE
from hart.modules.networks.basic_hart import AdaLNSelfAttn


class Projection(NamedTuple):
    """What a block's projection to queries, keys and values needs beside weights, made once.

    Attributes:
        bias: (3 C,).
        lengths: of queries and keys, (2 H, 1), where the block normalises them; else None.
    """

    bias: torch.Tensor
    lengths: torch.Tensor | None

    @classmethod
    def of(cls, block: AdaLNSelfAttn) -> Projection:
        attn, lengths = block.attn, None
        if attn.attn_l2_norm:
            queries = attn.scale_mul_1H11.view(-1, 1).clamp_max(MAX_LOG_TEMPERATURE).exp()
            lengths = torch.cat((queries, torch.ones_like(queries)))
        return cls(torch.cat((attn.q_bias, attn.zero_k_bias, attn.v_bias)), lengths)


def queries_keys_values(
    block: AdaLNSelfAttn,
    x: torch.Tensor,
    projection: Projection,
    factor: torch.Tensor | None,
    shift: torch.Tensor | None,
    tables: Tables | None,
) -> torch.Tensor:
    """Queries, keys (both after rotary) and values (3, r, H, n, d) of the residual stream.

    Args:
        x: (r, n, C).
        factor, shift: modulation (r, 1, C), None in plain blocks.
        tables: rotary cosines and sines (r, n, d), see :func:`folded`, None without.
    """
    attn = block.attn
    qkv = F.linear(_modulated(block, x, factor, shift), attn._qkv.weight, projection.bias)
    qkv = qkv.unflatten(-1, (-1, attn.head_dim))  # (r, n, 3 H, d)
    both = qkv[:, :, : 2 * attn.num_heads]
    if projection.lengths is not None:
        norms = torch.linalg.vector_norm(both, dim=-1, keepdim=True).clamp_min(1e-12)
        both.mul_(projection.lengths / norms)
    if tables is not None:
        cos, sin = (table[:, :, None] for table in tables)
        first, second = both.chunk(2, dim=-1)
        swapped = torch.cat((second, first), dim=-1)  # torch.roll would copy on CUDA first
        both.mul_(cos).addcmul_(swapped, sin)
    return qkv.unflatten(2, (3, attn.num_heads)).permute(2, 0, 3, 1, 4)


def folded(tables: Tables) -> Tables:
    """Tables that rotate by ``x * cos + roll(x) * sin``: the sines of the first half negative."""
    first, second = tables[1].chunk(2, dim=-1)
    return tables[0], torch.cat((-first, second), dim=-1)


def mlp_hidden(
    block: AdaLNSelfAttn,
    x: torch.Tensor,
    factor: torch.Tensor | None,
    shift: torch.Tensor | None,
) -> torch.Tensor:
    """What the MLP's last product takes (r, n, C'), of the residual stream."""
    return block.ffn.hidden(_modulated(block, x, factor, shift))


def _modulated(
    block: AdaLNSelfAttn,
    x: torch.Tensor,
    factor: torch.Tensor | None,
    shift: torch.Tensor | None,
) -> torch.Tensor:
    normed = block.ln_wo_grad(x)
    if factor is None or shift is None:
        return normed
    return torch.addcmul(shift, normed, factor)


@dataclass(frozen=True)
class TokenWise:
    """The functions above, as they are or compiled."""

    queries_keys_values: Callable = queries_keys_values
    mlp_hidden: Callable = mlp_hidden


@functools.cache
def compiled(backend: str | Callable = "inductor") -> TokenWise:
    """The functions through ``torch.compile``, once per process.

    One graph of each serves any number of tokens and rows in one dtype, another one a single row:
    torch makes graphs of their own for sizes of one. A single token is not worth one.
    """
    compiler = functools.partial(torch.compile, dynamic=True, backend=backend)
    return TokenWise(
        _for_any_size(queries_keys_values, compiler), _for_any_size(mlp_hidden, compiler)
    )


def _for_any_size(function: Callable, compiler: Callable) -> Callable:
    by_graph = compiler(function)

    def call(block: AdaLNSelfAttn, x: torch.Tensor, *others: Any) -> Any:
        if x.shape[1] == 1:
            return function(block, x, *others)
        return by_graph(block, *(_of_any_size(other) for other in (x, *others)))

    return call


def _of_any_size(thing: Any) -> Any:
    """A tensor (r, n, .) that says neither what it is a part of nor which sizes it shares."""
    if isinstance(thing, tuple) and not isinstance(thing, Projection):
        return tuple(map(_of_any_size, thing))
    if not isinstance(thing, torch.Tensor):
        return thing
    dense = thing.flatten(0, 1).view(thing.shape).data
    for axis in (0, 1):
        if dense.shape[axis] > 1:
            torch._dynamo.maybe_mark_dynamic(dense, axis)
    return dense
