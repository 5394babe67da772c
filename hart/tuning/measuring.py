"""Measuring every option by itself, on batches of images that are drawn once without caching."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm

from hart.batch.processes import Processes
from hart.modules.networks.caching.multiply_adds import transformer_macs
from hart.pipeline.base import Pipeline
from hart.pipeline.options import ImageRequest, batches
from hart.tuning.measurements import ErrorSum, Measurements
from hart.tuning.replay import Replay, first_change
from hart.tuning.selection import most_reused

SAVED_EVERY_S = 10.0
BATCH_SIZE = 4
CPU_BATCH_SIZE = 2
"""More images at a time are no faster there, and a batch is finished before time is looked at."""
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"

Save = Callable[[Measurements], None]


def measure(
    pipeline: Pipeline,
    prompts: Any,
    *,
    measurements: Measurements | None = None,
    processes: Processes | None = None,
    save: Save = lambda measurements: None,
    minutes: float | None = None,
    say: Callable[[str], None] = lambda line: None,
    quiet: bool = False,
    bar: Callable[..., Any] = tqdm,
    **sampling: Any,
) -> Measurements:
    """Measure the error of every option on one image per prompt.

    With measurements of the same prompts that were interrupted it goes on where they ended. Several
    processes share the options, and all of them get the result.

    Args:
        measurements: to go on from; they are changed.
        processes: who shares the work; None is this process alone.
        save: called every few seconds and in the end, however it ends, in the main process.
        minutes: begin no further batch after so many; the first one is always finished.
        say: is told in the beginning about how long it will take.
        quiet: no progress bar.
        bar: makes what shows progress.
        sampling: fields of the pipeline's ``options_class``.

    Raises:
        ValueError: prompts or options are not allowed, the measurements are of another model, or
            the engine does not execute this one.
    """
    processes = processes or Processes()
    fixed = {**sampling, "num_images_per_prompt": 1}
    requests = pipeline.requests(prompts, **fixed)
    found = measurements or begin(pipeline, **sampling)
    found.require(pipeline.transformer)
    work = _Work(pipeline, found, fixed, processes, save, say)
    size = CPU_BATCH_SIZE if pipeline.device.type == "cpu" else BATCH_SIZE
    pieces = list(batches(requests, sampling.get("batch_size") or size))
    total = sum(len(work.undone(stop)) for stop in _stops(pieces))
    started = time.monotonic()
    hidden = True if quiet or not processes.is_main else None
    how = {"desc": "measuring", "unit": "option", "bar_format": _BAR}
    try:
        with bar(total=total, disable=hidden, **how) as progress:
            for batch, stop in zip(pieces, _stops(pieces), strict=True):
                late = minutes is not None and time.monotonic() - started > 60 * minutes
                if processes.from_main(late and found.images > 0):
                    break
                work.batch(batch, stop, progress.update)
    finally:
        if processes.is_main and found.errors:
            save(found)
    return found


def begin(pipeline: Pipeline, **sampling: Any) -> Measurements:
    """Empty measurements of a pipeline's model."""
    model = pipeline.transformer
    options = pipeline.options_class(**sampling).to_dict()
    for name in ("seed", "batch_size", "num_images_per_prompt"):
        del options[name]
    place = {"dtype": str(pipeline.dtype).removeprefix("torch."), "device": pipeline.device.type}
    return Measurements(model.transformer_shape, model.weight_fingerprint(), {**options, **place})


def _stops(pieces: Sequence[Sequence[ImageRequest]]) -> list[int]:
    """How many images there are up to the end of each batch."""
    stops = [0]
    for piece in pieces:
        stops.append(stops[-1] + len(piece))
    return stops[1:]


class _Work:
    """What one process does."""

    def __init__(
        self,
        pipeline: Pipeline,
        found: Measurements,
        sampling: dict[str, Any],
        processes: Processes,
        save: Save,
        say: Callable[[str], None],
    ) -> None:
        self.say, self._said = say, False
        self.pipeline, self.found, self.sampling = pipeline, found, sampling
        self.processes, self.save, self._saved = processes, save, time.monotonic()
        self.first = found.schedule.num_stages - most_reused(found.schedule)

    def undone(self, stop: int) -> list[str]:
        """The options that were not measured on the images before ``stop``."""
        known = self.found.errors
        return [n for n in self.found.options if n not in known or known[n].images < stop]

    def batch(self, batch: Sequence[ImageRequest], stop: int, update: Callable[[int], Any]) -> None:
        """Measure what is left of one batch."""
        left = self.undone(stop)
        if not left:
            return
        started = time.monotonic()
        replay = Replay(self.pipeline, batch, self.sampling, self.first)
        self._estimate(time.monotonic() - started, left, len(batch))
        for names in _several(left, self.processes.count):
            mine = []
            for name in names[self.processes.index : self.processes.index + 1]:
                config = self.found.options[name].config(self.found.schedule)
                mine.append((name, replay.errors(config)))
            for name, errors in self.processes.gather(mine):
                known = self.found.errors.get(name, ErrorSum())
                self.found.errors[name] = known + ErrorSum.of(errors)
            update(len(names))
            self._keep()

    def _estimate(self, seconds: float, names: Sequence[str], images: int) -> None:
        """Say how long a batch takes, from a draw of the whole; once."""
        if self._said:
            return
        stages = transformer_macs(self.found.shape)
        configs = [self.found.options[name].config(self.found.schedule) for name in names]
        drawn = [sum(stages[first_change(config) :]) / sum(stages) for config in configs]
        minutes = seconds * (1 + sum(drawn) / self.processes.count) / 60
        self.say(f"{len(names)} options, about {minutes:.1f} minutes for every {images} images")
        self._said = True

    def _keep(self) -> None:
        if self.processes.is_main and time.monotonic() - self._saved > SAVED_EVERY_S:
            self.save(self.found)
            self._saved = time.monotonic()


def _several(names: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), count):
        yield names[start : start + count]
