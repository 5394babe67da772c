"""What the parts of a generation cost in seconds on this machine, from a few timed draws.

Draws take turns, and the fastest of each counts: whatever else a machine does only adds time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hart.evaluation.memory import MemoryWatch
from hart.evaluation.timing import mean_seconds, take_turns
from hart.modules.networks.caching.stages import StageSchedule
from hart.modules.networks.caching.tuned_config import TunedConfig
from hart.pipeline.base import Pipeline
from hart.pipeline.caching import caching_for_a_while
from hart.pipeline.results import PartSeconds
from hart.tuning.costs import Seconds
from hart.tuning.selection import UNGUIDED, Selection, most_reused

ROUNDS = 2
PRUNED_SHARE = 0.5


def timed_configs(schedule: StageSchedule, depth: int) -> dict[str, TunedConfig]:
    """What is timed, by name: all of one kind at the last stages."""
    last = most_reused(schedule)
    nothing = (0,) * (2 * depth)
    pruned = (PRUNED_SHARE,) * min(last, schedule.num_stages - 2)
    selections = {
        "nothing": Selection(nothing),
        "attn": Selection((last, 0) * depth),
        "mlp": Selection((0, last) * depth),
        "both": Selection((last, last) * depth),
        "pruned": Selection(nothing, pruned),
        "unguided": Selection(nothing, unguided=min(last, UNGUIDED[-1])),
    }
    return {name: each.config(schedule) for name, each in selections.items()}


def time_parts(
    pipeline: Pipeline, prompts: Any, rounds: int = ROUNDS, quiet: bool = False, **sampling: Any
) -> tuple[Seconds, int | None]:
    """Seconds of the parts, and the peak memory of drawing without caching in bytes.

    Args:
        prompts: one batch of them.
        sampling: fields of the pipeline's ``options_class``.
    """
    model = pipeline.transformer
    configs = timed_configs(model.schedule, model.depth)
    options = {**sampling, "num_images_per_prompt": 1}
    requests = pipeline.requests(prompts, **options)
    found: dict[str, list[PartSeconds]] = {name: [] for name in configs}

    def draw(name: str, turn: int) -> None:
        model.set_cache_config(configs[name])
        results = pipeline.draw_together(requests, **options)
        found[name].append(mean_seconds(results))

    with caching_for_a_while(model):
        model.set_cache_config(configs["nothing"])
        watch = MemoryWatch(pipeline.device)
        pipeline.draw_together(requests[:1], **options)
        read = watch.read()
        if not take_turns(list(configs), rounds, 0, quiet, draw):
            raise KeyboardInterrupt
    memory = read["device_bytes"] or read["process_bytes"]
    return fitted(found, model.depth, most_reused(model.schedule), len(requests)), memory


def fitted(
    found: Mapping[str, Sequence[PartSeconds]], depth: int, last: int, batch_size: int
) -> Seconds:
    """The parts' seconds that explain the timed draws.

    Args:
        found: the draws of :func:`timed_configs`, by name.
        depth: number of blocks.
        last: at how many of the last stages modules were reused.
    """
    stages_s = {name: _least(draws) for name, draws in found.items()}
    count = len(stages_s["nothing"])
    base, attn, mlp, pruned, unguided = ([0.0] * count for _ in range(5))
    for si in range(count):
        whole, a, m, both, cut, half = (stages_s[name][si] for name in found)
        reused = si >= count - last
        attn[si] = max(0.0, (whole - a + m - both) / 2 / depth) if reused else 0.0
        mlp[si] = max(0.0, (whole - m + a - both) / 2 / depth) if reused else 0.0
        modules = depth * (attn[si] + mlp[si])
        base[si] = max(0.0, whole - modules)
        over = cut - (whole - PRUNED_SHARE * modules)
        pruned[si] = max(0.0, over / (2 * depth)) if reused else 0.0
        unguided[si] = min(1.0, half / whole) if whole > 0 else 1.0
    other = min((each.text_s or 0.0) + each.decode_s for each in found["nothing"])
    return Seconds(
        *(other, tuple(base), tuple(attn), tuple(mlp), tuple(pruned), tuple(unguided)), batch_size
    )


def _least(draws: Sequence[PartSeconds]) -> list[float]:
    """Per stage the least seconds; the diffusion head's are the last one's."""
    stages = [[*each.stages_s[:-1], each.stages_s[-1] + each.residual_s] for each in draws]
    return [min(values) for values in zip(*stages, strict=True)]
