"""Faster execution of a HART or VAR model: the same images up to rounding."""

from __future__ import annotations

import torch

from hart.engine.adaptive_runner import AdaptiveRunner
from hart.engine.bare import blocks_are_bare, denoiser_is_bare, head_is_bare
from hart.engine.block_runner import BlockRunner
from hart.engine.denoiser import GuidedDenoiser
from hart.engine.merged_runs import StageProgram, compute_everything, merge_runs
from hart.engine.pruning_runner import PruningRunner
from hart.engine.token_wise import TokenWise, compiled
from hart.modules.models.transformer.generation_state import Generation
from hart.modules.models.transformer.stage_transformer import StageTransformer
from hart.modules.models.transformer.wrappers import innermost
from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.decisions import DecisionPlan, is_eligible
from hart.modules.networks.caching.prune_plan import kept_tokens
from hart.modules.networks.rope import MaskIndex


class Engine:
    """Executes the steps of one generation in the model's place; see ``GenerationSteps``.

    An adaptive threshold and token pruning have runners of their own. What these do not serve is
    left to the model's blocks, and so is everything if anything in them is adapted; the engine
    does the rest. Calibration only looks on: it draws what the engine draws without caching, bit
    for bit.

    Args:
        model: any HART or VAR model in evaluation mode, or a wrapper around one. Parts that
            somebody has wrapped, adapted or hooked are called as the model calls them.
        compile: run what the blocks do token by token through ``torch.compile``. The first images
            wait for it; on a CPU it needs a C++ compiler.
    """

    def __init__(self, model: StageTransformer, compile: bool = False) -> None:
        self.model = innermost(model)
        self._token_wise = compiled() if compile else TokenWise()
        self._runner: BlockRunner | None = None
        self._plan: DecisionPlan | None = None
        self._calibrating = False
        self._head_is_bare = False

    def begin(self, run: Generation) -> None:
        """See ``GenerationSteps``."""
        model = self.model
        cached = model.caches_features
        self._calibrating = cached and model.calibration
        self._runner = self._plan = None
        self._head_is_bare = head_is_bare(model)
        if not blocks_are_bare(model):
            return
        if cached and model.decides_while_running:
            self._runner = self._deciding_runner(run)
            return
        self._plan = model.decision_plan() if cached else None
        mode = self._plan.config.interpolation_mode if cached else ""
        observer = model.site_cache if self._calibrating else None
        self._runner = BlockRunner(model, run, self._programs(), mode, self._token_wise, observer)

    def _deciding_runner(self, run: Generation) -> BlockRunner | None:
        """The runner of a model that decides while it runs; None leaves it to its own blocks."""
        model = self.model
        if AdaptiveRunner.serves(model):
            return AdaptiveRunner(model, run, self._token_wise)
        if PruningRunner.serves(model):
            self._plan = plan = model.decision_plan()
            return PruningRunner(model, run, self._programs(), plan, self._token_wise)
        return None

    def _programs(self) -> tuple[StageProgram, ...]:
        if self._plan is None:
            return compute_everything(self.model.depth, len(self.model.patch_nums))
        return merge_runs(self._plan, cut_inside_layers=self.model.config.use_cross_attn)

    def run_blocks(
        self, x: torch.Tensor, run: Generation, si: int, m_maskgit: MaskIndex | None = None
    ) -> torch.Tensor:
        """See ``GenerationSteps``; may change ``x``. Of the text, only the last position."""
        if self._runner is None:
            return self.model.run_blocks(x, run, si, m_maskgit)
        rows, tokens = x.shape[:2]
        before = self._runner.kept_bytes
        out = self._runner.stage(x, si, m_maskgit)
        self._count(si, rows, tokens, self._runner.kept_bytes - before)
        return out

    def _count(self, si: int, rows: int, tokens: int, change_bytes: int) -> None:
        """Count module calls as the model's own blocks do, and the bytes that are really kept.

        A calibrating cache counts by itself.
        """
        if self._plan is None or self._calibrating or self.model.generation_counts is None:
            return
        counts, plan = self.model.generation_counts, self._plan
        for layer in range(plan.depth):
            for site in SITES:
                eligible = is_eligible(plan.config, plan.schedule, site, si, layer)
                action = plan.action(si, layer, site)
                kept = kept_tokens(tokens, action.ratio) if action.ratio else None
                counts.count(layer, si, site, action, eligible, rows, tokens, computed_tokens=kept)
        counts.hold(change_bytes)

    def guided_logits(self, hidden: torch.Tensor, run: Generation, t: float) -> torch.Tensor:
        """See ``GenerationSteps``. Guidance is linear, and so is the head: one half is enough."""
        if not run.guided or not self._head_is_bare:
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
