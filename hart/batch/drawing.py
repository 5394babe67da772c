"""Drawing jobs, in smaller batches once the memory turns out to be too small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from hart.batch.jobs import Job
from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline import HARTPipeline, ImageResult
from hart.pipeline.options import ImageRequest, SamplingChoices
from hart.utils.prompt_files import class_index

_CPU_TEXTS = ("can't allocate memory", "not enough memory", "out of memory")


class Drawer:
    """Draws jobs with one pipeline.

    Args:
        pipeline: its model's configuration is that of jobs without a preset.
        options: sampling options; seeds come from the jobs.
        batch_size: the largest number of images at the same time.
        say: told when the batch becomes smaller.
        prepare: called before every attempt, also one that fails and is repeated in pieces.

    Attributes:
        batch_size: as it is now.
    """

    def __init__(
        self,
        pipeline: HARTPipeline,
        options: SamplingChoices,
        batch_size: int,
        say: Callable[[str], None],
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._pipeline = pipeline
        self._options = options.to_dict()
        self._say, self._prepare = say, prepare
        self._default: CacheConfig = pipeline.model.cache_config
        self.batch_size = batch_size

    def draw(self, jobs: Sequence[Job]) -> Iterator[list[ImageResult]]:
        """Draw jobs of one preset; usually all at once.

        Raises:
            ValueError: there is not memory enough for a single image.
        """
        self._pipeline.model.set_cache_config(jobs[0].cache_preset or self._default)
        done = 0
        while done < len(jobs):
            results = self._try(jobs[done : done + self.batch_size])
            if results is None:
                self._halve(min(self.batch_size, len(jobs) - done))
                continue
            done += len(results)
            yield results

    def _try(self, jobs: Sequence[Job]) -> list[ImageResult] | None:
        """None if the memory is too small. The exception, which holds tensors, is gone then."""
        self._prepare()
        try:
            requests = [self._request(job) for job in jobs]
            return self._pipeline.draw_together(requests, **self._options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _request(self, job: Job) -> ImageRequest:
        if self._pipeline.draws == "prompts":
            return job.request
        return replace(job.request, prompt=class_index(job.prompt))

    def _halve(self, size: int) -> None:
        device = self._pipeline.device
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if size == 1:
            raise ValueError(
                f"out of memory on {device} even with one image at a time; use a smaller model or "
                "dtype, or a device with more memory"
            )
        self.batch_size = size // 2
        self._say(f"out of memory with {size} images at a time: going on with {self.batch_size}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(part in text for part in _CPU_TEXTS)
