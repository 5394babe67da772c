"""What one call of the sampler owns, and how its parts are named on a timeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from hart.modules.models.transformer.random_source import PerImageRandom, UpstreamRandom
from hart.modules.networks.caching.generation_cache import GenerationCache
from hart.modules.networks.caching.numbers import plain
from hart.modules.networks.caching.plan import guidance_stop
from hart.modules.networks.kv_cache import LayerKVCache
from hart.modules.networks.rope import MaskIndex
from hart.utils.timing import Timeline

if TYPE_CHECKING:
    from hart.modules.models.transformer.execution.executor import Executor

StageCallback = Callable[[int, int], None]
"""Called after every stage with its index and the number of stages."""

FeatureMapCallback = Callable[[int, torch.Tensor], None]
"""Called after every stage with its index and the feature map so far, (B, Z, P, P); the map is the
sampler's own and only valid during the call."""

RESIDUAL_PART = "residual"
"""Name of the residual diffusion head's parts on a timeline."""


def stage_part(si: int) -> str:
    """Name of the parts of stage ``si`` on a timeline, the diffusion head's not included."""
    return f"stage {si}"


class GenerationSeconds(NamedTuple):
    """Wall time of one generation.

    Attributes:
        stages_s: transformer and token drawing, one entry per stage that ran.
        residual_s: the residual diffusion head in the last stage, not included there.
    """

    stages_s: tuple[float, ...]
    residual_s: float

    @classmethod
    def of(cls, timeline: Timeline, num_stages: int) -> GenerationSeconds:
        """Read the parts that the sampler marked; on CUDA waits for the marks made so far."""
        totals = timeline.totals()
        parts = map(stage_part, range(num_stages))
        stages_s = tuple(totals[part] for part in parts if part in totals)
        return cls(stages_s, totals.get(RESIDUAL_PART, 0.0))


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn.

    Attributes:
        cfg: guidance scale; stage ``si`` of S uses ``cfg * si / (S - 1)``.
        top_p: nucleus mass, 0 means off.
        more_smooth: feed back the soft mixture of codebook rows instead of the drawn ones.
        top_k: candidates kept at every stage, 0 means all; None those that HART's sampler fixes.
        in_chunks: whether the last stage is predicted in chunks, in a random order, and added to
            the feature map without phi.
        num_maskgit_iters: how many chunks; 0 leaves the stage out.
        residual_diffusion: add the diffusion head's residual in the last stage.
    """

    cfg: float
    top_p: float
    more_smooth: bool
    top_k: int | None = None
    in_chunks: bool = False
    num_maskgit_iters: int = 1
    residual_diffusion: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))


def check_chunks(num_maskgit_iters: int, patch_nums: Sequence[int]) -> None:
    """Refuse numbers of chunks that the last stage cannot be cut into.

    Raises:
        ValueError: it is negative, or more than the last stage has tokens.
    """
    tokens = patch_nums[-1] ** 2
    if not 0 <= num_maskgit_iters <= tokens:
        raise ValueError(
            f"num_maskgit_iters must be from 0 to {tokens}, the tokens of this model's last stage; "
            f"got {num_maskgit_iters}"
        )


@dataclass
class Generation:
    """Everything that one call of the sampler owns.

    B images are 2 B rows: those with the text or class, then those without.
    """

    options: SamplingOptions
    bsz: int
    cond: torch.Tensor  # (2B, T, C), for classes (2B, C)
    context_position_ids: torch.Tensor | None  # (2B, T), None for classes
    context_mask: torch.Tensor | None  # (2B, T), None for classes
    levels: torch.Tensor  # (S, C)
    f_hat: torch.Tensor  # (B, Z, P, P)
    kv: list[LayerKVCache]  # of blocks that are called
    random: UpstreamRandom | PerImageRandom
    callback: StageCallback | None = None
    timeline: Timeline | None = None  # None: nobody wants to know
    cache: GenerationCache | None = None  # None: nothing is cached or counted
    executor: Executor | None = None  # None: the blocks are called
    on_feature_map: FeatureMapCallback | None = None
    guided: bool = True  # False: guidance has ended, only the rows with text are left

    @property
    def copies(self) -> int:
        """Rows per image: with and without text, or with text only."""
        return 2 if self.guided else 1

    @property
    def guidance_stop(self) -> int | None:
        """Index of the stage from which on there is no guidance; None if there always is."""
        plan = self.cache.plan if self.cache is not None else None
        return guidance_stop(plan.config, plan.schedule) if plan else None

    def stop_guidance(self) -> None:
        """Drop the rows without text, and what is kept of them."""
        self.guided = False
        self.cond = self.cond[: self.bsz]
        if self.context_position_ids is not None and self.context_mask is not None:  # a text
            self.context_position_ids = self.context_position_ids[: self.bsz]
            self.context_mask = self.context_mask[: self.bsz]
        for layer in self.kv:
            layer.keep_rows(self.bsz)
        if self.cache is not None:
            self.cache.stop_guidance(self.bsz)

    def mark(self, part: str) -> None:
        """Close a part on the timeline."""
        if self.timeline is not None:
            self.timeline.mark(part)

    def finish_stage(self, si: int) -> None:
        """Close stage ``si`` on the timeline and tell the callbacks."""
        self.mark(stage_part(si))
        if self.on_feature_map is not None:
            self.on_feature_map(si, self.f_hat)
        if self.callback is not None:
            self.callback(si, len(self.levels))


class GenerationSteps(Protocol):
    """The steps of the sampling loop that cost time; the loop itself is the model's.

    Others than the model's own must give the same results up to rounding.
    """

    def begin(self, run: Generation) -> None:
        """Prepare one generation; called before its first stage."""

    def run_blocks(
        self, x: torch.Tensor, run: Generation, si: int, m_maskgit: MaskIndex | None = None
    ) -> torch.Tensor:
        """All blocks on one stage's tokens: (2B, n, C), which may be changed, to (2B, n, C).

        Of stage 0, the text, only the last position is looked at, and may be all that there is.
        ``m_maskgit`` says which positions of the last stage's map these are.
        """

    def guided_logits(self, hidden: torch.Tensor, run: Generation, t: float) -> torch.Tensor:
        """(2B, n, C) to float32 (B, n, V): ``(1 + t) * with text - t * without``."""

    def residual(
        self, hidden: torch.Tensor, ids: torch.Tensor, run: Generation, t: float
    ) -> torch.Tensor:
        """What the diffusion head adds to the codebook rows of ``ids`` (B, n): (B, n, Z)."""
