"""What two ways of executing the same steps are compared by."""

from __future__ import annotations

import torch

# Float32 sums in another order: relative to the largest value of hidden states and logits, in
# which the head and guidance amplify it, and of the map, in which the diffusion head does.
HIDDEN_TOLERANCE, LOGIT_TOLERANCE, MAP_TOLERANCE = 1e-5, 5e-5, 2e-4


class Called:
    """The model's own steps, with its blocks called; the executor is compared with them."""

    def __init__(self, model) -> None:
        self.model = model
        self.guided_logits, self.residual = model.guided_logits, model.residual

    def begin(self, run) -> None:
        """No executor."""

    def run_blocks(self, x, run, si, m_maskgit=None):
        return self.model.run_blocks(x, run, si, m_maskgit)


class Documented(Called):
    """Blocks that are called with lists and tables, as documented: the small reference.

    Args:
        tables: by site a similarity table or a recorder.
    """

    def __init__(self, model, tables) -> None:
        super().__init__(model)
        self.lists = {f"cache_{site}": [None] * model.depth for site in tables}
        self.lists |= {f"cache_similarity_{site}": table for site, table in tables.items()}

    def run_blocks(self, x, run, si, m_maskgit=None):
        cond = self.model.shared_ada_lin(run.cond)
        where = (None, si, run.context_position_ids, run.context_mask, m_maskgit)
        for block, kv_cache in zip(self.model.blocks, run.kv, strict=True):
            x = block(x, cond, *where, kv_cache=kv_cache, **self.lists)
        return x


class Recorded:
    """Steps that note what the blocks and the guided logits were."""

    def __init__(self, steps) -> None:
        self.steps = steps
        self.begin, self.residual = steps.begin, steps.residual
        self.hidden, self.logits = [], []

    def run_blocks(self, x, run, si, m_maskgit=None):
        hidden = self.steps.run_blocks(x, run, si, m_maskgit)
        self.hidden.append(hidden[:, -1:] if si == 0 else hidden)
        return hidden

    def guided_logits(self, hidden, run, t):
        logits = self.steps.guided_logits(hidden, run, t)
        self.logits.append(logits.clone())
        return logits


def assert_same_steps(fast: Recorded, plain: Recorded) -> None:
    """Both saw the same hidden states and logits, up to rounding."""
    for ours, theirs in zip(fast.hidden, plain.hidden, strict=True):
        assert (ours - theirs).abs().max() < HIDDEN_TOLERANCE * theirs.abs().max()
    for ours, theirs in zip(fast.logits, plain.logits, strict=True):
        assert (ours - theirs).abs().max() < LOGIT_TOLERANCE * theirs.abs().max()


def assert_same_maps(fast: torch.Tensor, plain: torch.Tensor) -> None:
    """Both drew the same feature maps, up to rounding."""
    assert (fast - plain).abs().max() < MAP_TOLERANCE
