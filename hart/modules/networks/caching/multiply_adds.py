"""Multiply-adds of a transformer's blocks: the one place for the formulas.

Counted are the matrix products of self-attention and feed-forward network. Norms, rotary embedding,
softmax and modulation are left out, as is usual; cross-attention and the token head too, because
they are never reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .stages import StageSchedule


@dataclass(frozen=True)
class TransformerShape:
    """The sizes of a transformer that its multiply-adds depend on.

    Attributes:
        depth: number of blocks.
        embed_dim: width C.
        mlp_hidden: hidden size of the feed-forward network.
        mlp_matrices: weight matrices in it: 3 for llama, 2 for gpt2.
        context_token: text tokens, which are the sequence of stage 0.
        patch_nums: side lengths of the token maps.
    """

    depth: int
    embed_dim: int
    mlp_hidden: int
    mlp_matrices: int
    context_token: int
    patch_nums: tuple[int, ...]

    @cached_property
    def stage_lengths(self) -> tuple[int, ...]:
        """Tokens of each stage's map, the stage's name."""
        return StageSchedule(self.patch_nums).lengths

    @cached_property
    def new_tokens(self) -> tuple[int, ...]:
        """Sequence length of each stage: the text at stage 0, else the map."""
        return (self.context_token or self.stage_lengths[0], *self.stage_lengths[1:])


def attention_macs(shape: TransformerShape, tokens: int, keys: int) -> int:
    """Multiply-adds of one block's attention for one row.

    ``4 n C^2`` for the query, key, value and output projections and ``2 n k C`` for scores and
    weighted values.

    Args:
        tokens: ``n``, new tokens.
        keys: ``k``, keys that they attend to, their own included.
    """
    C = shape.embed_dim
    return 4 * tokens * C * C + 2 * tokens * keys * C


def mlp_macs(shape: TransformerShape, tokens: int) -> int:
    """Multiply-adds of one block's feed-forward network for one row of ``tokens``."""
    return tokens * shape.mlp_matrices * shape.embed_dim * shape.mlp_hidden


def transformer_macs(shape: TransformerShape) -> list[int]:
    """Multiply-adds of all blocks for one row per stage, everything computed."""
    stages = []
    keys = 0
    for tokens in shape.new_tokens:
        keys += tokens
        stages.append(shape.depth * (attention_macs(shape, tokens, keys) + mlp_macs(shape, tokens)))
    return stages
