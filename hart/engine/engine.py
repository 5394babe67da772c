"""Faster execution of a HART or VAR model: the same images up to rounding."""

from __future__ import annotations

import torch

from hart.engine.denoiser import GuidedDenoiser
from hart.modules.models.transformer.execution.bare import (
    blocks_are_bare,
    denoiser_is_bare,
    head_is_bare,
)
from hart.modules.models.transformer.execution.executor import Executor
from hart.modules.models.transformer.execution.token_wise import TokenWise, compiled
from hart.modules.models.transformer.generation_state import Generation
from hart.modules.models.transformer.stage_transformer import StageTransformer
from hart.modules.models.transformer.wrappers import innermost
from hart.modules.networks.rope import MaskIndex


class Engine:
    """Executes the steps of one generation in the model's place; see ``GenerationSteps``.

    Adapted blocks are called; the engine does the rest.
    Calibration only looks on: it draws what the engine draws without caching, bit for bit.

    Args:
        model: any HART or VAR model in evaluation mode, or a wrapper around one. Parts that
            somebody has wrapped, adapted or hooked are called as the model calls them.
        compile: run what the blocks do token by token through ``torch.compile``. The first images
            wait for it; on a CPU it needs a C++ compiler.
    """

    def __init__(self, model: StageTransformer, compile: bool = False) -> None:
        self.model = innermost(model)
        self._token_wise = compiled() if compile else TokenWise()

    def begin(self, run: Generation) -> None:
        """See ``GenerationSteps``."""
        self._head_is_bare = head_is_bare(self.model)
        if blocks_are_bare(self.model):
            run.executor = Executor(self.model, run, self._token_wise)
            run.executor.merge()

    def run_blocks(
        self, x: torch.Tensor, run: Generation, si: int, m_maskgit: MaskIndex | None = None
    ) -> torch.Tensor:
        """See ``GenerationSteps``."""
        return self.model.run_blocks(x, run, si, m_maskgit)

    def guided_logits(self, hidden: torch.Tensor, run: Generation, t: float) -> torch.Tensor:
        """See ``GenerationSteps``. Guidance is linear, and so is the head: one half is enough."""
        if not (run.guided and self._head_is_bare):
            return self.model.guided_logits(hidden, run, t)
        with_text, without = self.model.head_nm(hidden.float(), run.cond).chunk(2)
        guided = (1 + t) * with_text - t * without
        if not torch.is_autocast_enabled(guided.device.type):
            guided = guided.to(self.model.head.weight.dtype)
        return self.model.head(guided).float()

    def residual(
        self, hidden: torch.Tensor, ids: torch.Tensor, run: Generation, t: float
    ) -> torch.Tensor:
        """See ``GenerationSteps``."""
        model = self.model
        if not run.guided or not denoiser_is_bare(model):
            return model.residual(hidden, ids, run, t)
        condition = model.residual_condition(hidden, ids).flatten(0, 1)
        residual = model.diffloss.sample(
            condition,
            cfg=t,
            noise_source=run.random.noise_source(ids.shape[1]),
            denoiser=GuidedDenoiser(model.diffloss.net, condition, t),
        )
        return residual.view(2, *ids.shape, model.Cvae)[0]
