"""Fitting corrections of what is reused, module after module, on what the plan itself produces.

A module's reused output is compared with what it would have computed from the stream that the
reuse before it has left. A scale and a shift per channel are fitted by least squares and in force
for whatever comes after.
"""

from __future__ import annotations

import torch

from hart.modules.models.transformer.execution.executor import Executor
from hart.modules.models.transformer.execution.streams import Stream
from hart.modules.models.transformer.execution.token_wise import TokenWise
from hart.modules.networks.caching.corrections import Correction
from hart.modules.networks.caching.plan import Action
from hart.modules.networks.caching.store import single
from hart.modules.networks.caching.tuned_config import TunedConfig
from hart.tuning.replay import Replay, SingleOutputs, first_change

SHRINKAGE = 0.02
"""Pulls the scale towards 1, in parts of the channel's variance."""


def fit_corrections(replay: Replay, config: TunedConfig) -> list[Correction]:
    """Corrections of everything that a plan reuses, fitted on one batch of images.

    A chain of reuse is corrected for its first stage.
    """
    first = first_change(config)
    if first is None or not config.reused:
        return []
    cache = _WithRoom(config.plan)
    engine, run, moment = replay.begun(first, cache)
    executor = _Fitting(engine.model, run, TokenWise())
    executor.buffers.restore(moment.keys)
    run.executor = executor
    with torch.no_grad():
        replay.model.run_stages_from(first, moment.x.clone(), run, engine)
    return executor.found


class _WithRoom(SingleOutputs):
    """Has room for the keys of reused attention too."""

    @property
    def plan_is_final(self) -> bool:
        return False


class _Fitting(Executor):
    """Computes what is reused too, and corrects it from the first stage of its reuse on."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.found: list[Correction] = []

    def _reuse(self, stream: Stream, module: int, action: Action) -> None:
        self._flush(stream)
        if not self.cache.plan[stream.si - 1][module].reuse:
            self._fit(stream, module)
        self.store.defer(module)
        self._flush(stream, module if action.store_source else None)

    def _fit(self, stream: Stream, module: int) -> None:
        """Correct the kept output of a module."""
        parts, layer = self.store.slots[single(module)], module // 2
        with self.buffers.unchanged(layer):  # a reused attention adds no keys
            computed = torch.cat([out for _, out in self._outputs(stream, module)], dim=1)
        reused = self.store.resized(module, stream.si, stream.m_maskgit)
        scale, shift = fitted(reused.flatten(0, 1).float(), computed.flatten(0, 1).float())
        correction = Correction.of(stream.si - 1, module, scale, shift)
        self.found.append(correction)
        scale, shift = correction.tensors(reused)
        parts.update({since: part * scale + shift for since, part in parts.items()})


def fitted(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift (C,) with which ``x`` (n, C) is nearest to ``y``."""
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    variance = (x - mean_x).square().mean(dim=0)
    covariance = ((x - mean_x) * (y - mean_y)).mean(dim=0)
    least = torch.finfo(torch.float32).eps
    scale = (covariance + SHRINKAGE * variance) / ((1 + SHRINKAGE) * variance + least)
    scale = scale.clamp(0, 2)
    return scale, mean_y - scale * mean_x
