"""The same images again with other plans, each from the first stage that it changes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hart.engine import Engine
from hart.modules.models.transformer.execution.executor import Executor
from hart.modules.models.transformer.generation_state import Generation
from hart.modules.models.transformer.random_source import PerImageRandom
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.generation_cache import GenerationCache
from hart.modules.networks.caching.plan import COMPUTE, Action, Plan
from hart.modules.networks.caching.store import single
from hart.modules.networks.caching.tuned_config import TunedConfig
from hart.modules.networks.kv_cache import LayerKVCache
from hart.modules.networks.rope import MaskIndex
from hart.pipeline.base import Pipeline
from hart.pipeline.options import ImageRequest


@dataclass(frozen=True)
class Moment:
    """What a generation was before a stage.

    Attributes:
        x: (2B, n, C), the stage's tokens.
        f_hat: (B, Z, P, P).
        outputs: of every module at the stage before, (2B, m, C).
        keys: keys and values per layer, (2, rows, H, n, d).
    """

    x: torch.Tensor
    f_hat: torch.Tensor
    outputs: list[torch.Tensor]
    keys: list[torch.Tensor]


class SingleOutputs(GenerationCache):
    """Keeps what every module puts out by itself, whatever is reused in a row."""

    def merge(self, cuts=()) -> None:
        """Keep no sums."""


class _Recording(Engine):
    """Draws without caching and keeps every moment from stage ``first`` on."""

    def __init__(self, model: Any, first: int) -> None:
        super().__init__(model)
        self.first, self.moments, self.states = first, dict[int, Moment](), dict[int, list]()
        self.run: Generation | None = None

    def begin(self, run: Generation) -> None:
        model, stages = self.model, len(self.model.patch_nums)
        kept, dropped = ((each,) * (2 * model.depth) for each in (Action(store=True), COMPUTE))
        actions = tuple(kept if si + 1 >= self.first else dropped for si in range(stages))
        run.cache = SingleOutputs(Plan(CacheConfig(), model.schedule, actions))
        run.callback = self._after_stage
        super().begin(run)
        if not isinstance(run.executor, Executor) or run.options.num_maskgit_iters != 1:
            raise ValueError(
                "plans are found on models that the engine executes, which have no adapters or "
                "hooks in their blocks, with the last stage in one piece"
            )
        self.run = run

    def _after_stage(self, si: int, stages: int) -> None:
        """Note the random state, of which the next stage may draw before its blocks are run."""
        assert self.run is not None
        assert isinstance(self.run.random, PerImageRandom)
        self.states[si + 1] = [each.get_state() for each in self.run.random.generators]

    def run_blocks(
        self, x: torch.Tensor, run: Generation, si: int, m_maskgit: MaskIndex | None = None
    ) -> torch.Tensor:
        if si >= self.first:
            assert run.cache is not None
            assert isinstance(run.executor, Executor)
            slots = run.cache.store.slots
            outputs = [slots[single(m)][si - 1] for m in range(2 * self.model.depth)]
            keys = run.executor.buffers.content()
            self.moments[si] = Moment(x.clone(), run.f_hat.clone(), outputs, keys)
        return super().run_blocks(x, run, si, m_maskgit)


class Replay:
    """One batch of images, drawn without caching and then with any number of plans.

    Args:
        pipeline: whose model draws.
        batch: the images.
        sampling: fields of ``options_class`` by name.
        first: the first stage that a plan may change, from 1.

    Attributes:
        reference: feature maps (B, Z, P, P) without caching.

    Raises:
        ValueError: the engine does not execute this model.
    """

    def __init__(
        self, pipeline: Pipeline, batch: Sequence[ImageRequest], sampling: dict, first: int
    ) -> None:
        self.model, self.batch = pipeline.transformer, batch
        self._recording = _Recording(self.model, max(1, first - 1))
        with undisturbed(self.model):
            map_ = pipeline.feature_map(batch, self._recording, **sampling)
        self.reference = map_.clone()

    @torch.no_grad()
    def draw(self, config: TunedConfig) -> torch.Tensor:
        """Feature maps (B, Z, P, P) as a plan draws them."""
        first = first_change(config)
        if first is None:
            return self.reference
        engine, run, moment = self.begun(first, GenerationCache(config.plan))
        with undisturbed(self.model):
            return self.model.run_stages_from(first, moment.x.clone(), run, engine)

    def begun(self, first: int, cache: GenerationCache) -> tuple[Engine, Generation, Moment]:
        """A generation that has come to stage ``first``, and what it is there."""
        recording, recorded = self._recording, self._recording.run
        moment = recording.moments[first]
        assert recorded is not None
        assert isinstance(recorded.random, PerImageRandom)
        if cache.wants_changes(first):
            cache.note_changes(first, recording.moments[first - 1].f_hat, moment.f_hat)
        generators = []
        for state in recording.states[first]:
            generators.append(torch.Generator(recorded.random.generators[0].device))
            generators[-1].set_state(state)
        run = replace(
            recorded,
            f_hat=moment.f_hat.clone(),
            kv=[LayerKVCache() for _ in range(self.model.depth)],
            random=PerImageRandom(generators, recorded.random.device),
            callback=None,
            cache=cache,
            executor=None,
        )
        engine = Engine(self.model)
        engine.begin(run)
        assert isinstance(run.executor, Executor)
        run.executor.buffers.restore(moment.keys)
        cache.resume(first, moment.outputs)
        return engine, run, moment

    def errors(self, config: TunedConfig) -> list[float]:
        """Per image the mean squared change of the final feature map."""
        return map_errors(self.draw(config), self.reference)


def map_errors(maps: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """Per image the mean squared difference of feature maps (B, Z, P, P)."""
    return (maps.float() - reference.float()).square().flatten(1).mean(dim=1).tolist()


def first_change(config: TunedConfig) -> int | None:
    """The first stage at which a plan does anything special; None: it never does."""
    lengths = config.schedule.lengths
    changed = [si for si, _ in config.reused]
    changed += [lengths.index(length) for length, share in config.prune_stages if share > 0]
    if config.guidance_stop_stage is not None:
        changed.append(lengths.index(config.guidance_stop_stage))
    return min(changed, default=None)


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Without caching of the model's own, and counting nothing."""
    caching = model.caching
    before = caching.use, caching.calibration, caching.collect_statistics
    caching.use, caching.calibration, caching.collect_statistics = False, False, False
    try:
        yield
    finally:
        caching.use, caching.calibration, caching.collect_statistics = before
