"""The training pass on some of the tokens: early stages whole, of late ones a random part.

Every stage's queries see the keys up to its own, so that only the small early stages need a mask;
blocks run as compiled functions. The result is :meth:`HARTForT2I.forward`'s on the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.networks.rope import apply_rotary_pos_emb
from recipes.demo.loop import training_autocast

MASKED_STAGES = 7
"""Stages 0 to 6 attend together, under a mask; each later one by itself."""


class KeptTokens(NamedTuple):
    """Which tokens of a schedule a step sees.

    Attributes:
        of_stage: per stage the indices of its tokens, int64 (n,), ascending.
        places: of all of them after the text among the positions of stages 1, 2, ..., (N,).
        levels: the stage of every position including the text, (T + N,).
        segments: ends of what attends together, counted with the text.
    """

    of_stage: list[torch.Tensor]
    places: torch.Tensor
    levels: torch.Tensor
    segments: list[int]


def keep_tokens(
    sides: Sequence[int],
    shares: Sequence[float],
    text_tokens: int,
    generator: torch.Generator | None = None,
) -> KeptTokens:
    """Keep a random share of every stage's tokens, the same in all rows of a batch.

    Args:
        sides: of all stages of the model.
        shares: of the stages that the step sees, from the first; 1.0 keeps a stage whole.
        text_tokens: positions of stage 0 in the sequence.
    """
    of_stage, places, levels, segments = [], [], [torch.zeros(text_tokens).long()], []
    start = 0
    for si, share in enumerate(shares):
        count = sides[si] ** 2
        kept = torch.randperm(count, generator=generator)[: max(1, round(share * count))]
        kept = kept.sort().values if share < 1 else torch.arange(count)
        of_stage.append(kept)
        if si:
            places.append(start + kept)
            levels.append(torch.full_like(kept, si))
            start += count
        end = sum(map(len, levels))
        if si < MASKED_STAGES and segments:
            segments[-1] = end
        else:
            segments.append(end)
    return KeptTokens(of_stage, torch.cat(places), torch.cat(levels), segments)


class TeacherForcedPass:
    """Hidden states of the kept tokens, (B, kept, C), for a model in training mode.

    Args:
        compile_blocks: run a block through torch.compile, which needs a C++ compiler.
    """

    def __init__(self, model: HARTForT2I, compile_blocks: bool) -> None:
        self.model = model
        self.block: Callable = torch.compile(run_block) if compile_blocks else run_block

    def __call__(
        self,
        context: torch.Tensor,
        positions: torch.Tensor,
        maps: torch.Tensor,
        kept: KeptTokens,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states and the conditioning (B, T, C).

        Args:
            context: text features (B, T, E), zeros where a text is dropped.
            positions: (B, T) int64.
            maps: inputs of stages 1, 2, ... (B, L - 1, Z).
        """
        model = self.model
        cond = model.embed_context(context.float())
        x = torch.cat((cond, model.embed_tokens(maps[:, kept.places])), dim=1)
        x = x + model.level_embeddings()[kept.levels]
        visible = (kept.places, kept.places.repeat(len(x)))
        with training_autocast(x.device.type):
            like = model.head(x[:, :1, :]).detach()  # the dtype that matrices multiply in
            tables = model.blocks[0].attn.rotary_tables(
                like.expand(len(x), -1, -1), -1, positions, visible
            )
            first = kept.levels[: kept.segments[0]]
            mask = first[:, None] >= first[None, :]
            for block in model.blocks:
                x = self.block(block, x, *tables, mask, kept.segments)
        return x[:, model.first_l - 1 :], cond


def run_block(
    block: nn.Module,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor,
    segments: list[int],
) -> torch.Tensor:
    """A plain llama block on (B, n, C), attention segment by segment."""
    attn = block.attn
    q, k, v = attn.queries_keys_values(_normed(block, x).to(cos.dtype))
    q, k = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1)
    outs, begin = [], 0
    for end in segments:
        scores = (q[:, :, begin:end] * attn.scale) @ k[:, :, :end].transpose(2, 3)
        if begin == 0:
            scores = scores.masked_fill(~mask, -torch.inf)
        # Plain products: on a CPU the fused kernel's gradient takes several times as long.
        outs.append(scores.float().softmax(dim=-1).to(v.dtype) @ v[:, :, :end])
        begin = end
    out = torch.cat(outs, dim=2).transpose(1, 2).flatten(2)
    x = x + attn.proj(out)
    return x + block.ffn(_normed(block, x).to(cos.dtype))


def _normed(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    norm = block.ln_wo_grad
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)
