"""What caching did in a run, and how much arithmetic it saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from .config import SITES
from .decisions import DecisionPlan
from .stages import StageSchedule


@dataclass
class SiteCounts:
    """Module calls of one site at one stage, summed over layers and calls.

    Attributes:
        computed: calls that computed the module.
        reused: calls that took the interpolated output instead.
        stored: outputs kept for the next stage.
        not_eligible: those of the computed calls that the configuration would not let reuse.
    """

    computed: int = 0
    reused: int = 0
    stored: int = 0
    not_eligible: int = 0


class CacheStatistics:
    """Counts of a run since the last reset, per stage and site.

    Args:
        schedule: the model's stages.
    """

    def __init__(self, schedule: StageSchedule) -> None:
        self.schedule = schedule
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self.images = 0
        self._counts = [{site: SiteCounts() for site in SITES} for _ in self.schedule.lengths]

    def add_images(self, images: int) -> None:
        """Count ``images`` finished images."""
        self.images += images

    def record(self, si: int, site: str, reuse: bool, stored: bool, eligible: bool) -> None:
        """Count one module call.

        Args:
            si: stage index; training (negative) is not counted.
            site: ``"attn"`` or ``"mlp"``.
            reuse: whether the stored output was taken.
            stored: whether the output was kept.
            eligible: whether the configuration allows reuse here, see ``decisions.is_eligible``.
        """
        if si < 0:
            return
        counts = self._counts[si][site]
        counts.reused += reuse
        counts.computed += not reuse
        counts.not_eligible += not (reuse or eligible)
        counts.stored += stored

    def counts(self, si: int, site: str) -> SiteCounts:
        """The counts of one stage and site."""
        return self._counts[si][site]

    def reused_share(self, si: int, site: str) -> float:
        """Share of the calls at one stage and site that reused; 0 without calls."""
        counts = self._counts[si][site]
        calls = counts.reused + counts.computed
        return counts.reused / calls if calls else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: images, totals per site, and counts per stage (by token count) and site."""
        totals = {site: SiteCounts() for site in SITES}
        for stage in self._counts:
            for site, counts in stage.items():
                for name, value in asdict(counts).items():
                    setattr(totals[site], name, getattr(totals[site], name) + value)
        return {
            "images": self.images,
            "totals": {site: asdict(counts) for site, counts in totals.items()},
            "stages": {
                str(length): {site: asdict(counts) for site, counts in stage.items()}
                for length, stage in zip(self.schedule.lengths, self._counts, strict=True)
            },
        }


@dataclass(frozen=True)
class TransformerShape:
    """The sizes of a transformer that its multiply-adds depend on.

    Attributes:
        depth: number of blocks.
        embed_dim: width C.
        mlp_hidden: hidden size of the feed-forward network.
        mlp_matrices: weight matrices in it: 3 for llama, 2 for gpt2.
        context_token: text tokens, which are the sequence of stage 0.
        vocab_size: number of logits per token.
        patch_nums: side lengths of the token maps.
    """

    depth: int
    embed_dim: int
    mlp_hidden: int
    mlp_matrices: int
    context_token: int
    vocab_size: int
    patch_nums: tuple[int, ...]

    @cached_property
    def new_tokens(self) -> tuple[int, ...]:
        """Sequence length of each stage."""
        lengths = StageSchedule(self.patch_nums).lengths
        return (self.context_token or lengths[0], *lengths[1:])

    def keys(self, si: int) -> int:
        """Keys that a row's queries see at stage ``si`` if no attention was reused."""
        return sum(self.new_tokens[: si + 1])


def attention_macs(shape: TransformerShape, si: int, keys: int | None = None) -> int:
    """Multiply-adds of one block's attention for one row at stage ``si``.

    ``4 n C^2`` for the query, key, value and output projections and ``2 n k C`` for scores and
    weighted values, with ``n`` new tokens and ``k`` keys including the new ones. Norms, rotary
    embedding, softmax and modulation are left out, as is usual.

    Args:
        keys: ``k`` where reused attentions left some out; by default all of them.
    """
    n, C = shape.new_tokens[si], shape.embed_dim
    k = shape.keys(si) if keys is None else keys
    return 4 * n * C * C + 2 * n * k * C


def mlp_macs(shape: TransformerShape, si: int) -> int:
    """Multiply-adds of one block's feed-forward network for one row at stage ``si``."""
    return shape.new_tokens[si] * shape.mlp_matrices * shape.embed_dim * shape.mlp_hidden


def head_macs(shape: TransformerShape, si: int) -> int:
    """Multiply-adds of the logits for one row; at stage 0 only the last position has any."""
    positions = shape.new_tokens[si] if si > 0 else 1
    return positions * shape.embed_dim * shape.vocab_size


def transformer_macs(shape: TransformerShape) -> list[int]:
    """Multiply-adds of all blocks for one row per stage, everything computed, head not included."""
    stages = range(len(shape.patch_nums))
    return [shape.depth * (attention_macs(shape, si) + mlp_macs(shape, si)) for si in stages]


def saved_share(source: DecisionPlan | CacheStatistics, shape: TransformerShape) -> float:
    """Share in [0, 1] of the transformer blocks' multiply-adds that reuse saves.

    Interpolation is not counted against it, nor is the head in the whole. From a plan the share is
    exact, including the attention over keys that reused attentions never added. Statistics do not
    know layers; from them those missing keys are not counted, which never overstates the saving.

    Raises:
        ValueError: the source is for another schedule or depth than ``shape``.
    """
    if source.schedule.patch_nums != tuple(shape.patch_nums):
        raise ValueError(
            f"shape has patch_nums {tuple(shape.patch_nums)}, the decisions are for "
            f"{source.schedule.patch_nums}"
        )
    needed = _plan_macs if isinstance(source, DecisionPlan) else _counted_macs
    return 1.0 - needed(source, shape) / sum(transformer_macs(shape))


def _plan_macs(plan: DecisionPlan, shape: TransformerShape) -> int:
    if plan.depth != shape.depth:
        raise ValueError(f"shape has depth {shape.depth}, the plan is for {plan.depth}")
    return sum(
        _layer_macs(
            shape,
            [stage[layer].reuse for stage in plan.actions["attn"]],
            [stage[layer].reuse for stage in plan.actions["mlp"]],
        )
        for layer in range(shape.depth)
    )


def _layer_macs(
    shape: TransformerShape, attn_reused: Sequence[bool], mlp_reused: Sequence[bool]
) -> int:
    macs = keys = 0
    for si, new_tokens in enumerate(shape.new_tokens):
        if not attn_reused[si]:
            keys += new_tokens
            macs += attention_macs(shape, si, keys)
        if not mlp_reused[si]:
            macs += mlp_macs(shape, si)
    return macs


def _counted_macs(statistics: CacheStatistics, shape: TransformerShape) -> float:
    return shape.depth * sum(
        (1.0 - statistics.reused_share(si, "attn")) * attention_macs(shape, si)
        + (1.0 - statistics.reused_share(si, "mlp")) * mlp_macs(shape, si)
        for si in range(len(shape.patch_nums))
    )
