"""The same images with several cache configurations, measured against those without caching.

The configurations take turns, in rounds whose order rotates, and a speedup is a ratio within one
round, because machines drift: they warm up, throttle and do other work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from hart.evaluation import DEFAULT_ROUNDS
from hart.evaluation.image_metrics import Metric, import_ssim, quality
from hart.evaluation.memory import device_memory
from hart.evaluation.timing import has_text_encoder, mean_seconds, take_turns
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.plan_files import MAX_FILE_BYTES, StoredPlan
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.pipeline import (
    GenerationOptions,
    HARTPipeline,
    HARTPipelineOutput,
    VARGenerationOptions,
)
from hart.pipeline.caching import caching_for_a_while
from hart.pipeline.results import PartSeconds
from hart.utils.errors import one_line
from hart.utils.json_files import read_json_object

REFERENCE = "no-cache"
MAX_EXAMPLES = 8


@dataclass
class ConfigurationResult:
    """What was measured of one configuration; None before its first run.

    Attributes:
        requested, config: a preset's name or a configuration, and what it means for the model.
        seconds: seconds per image by number of the round.
        quality: see :func:`hart.evaluation.image_metrics.quality`.
        statistics: cache statistics of one run.
        device_bytes: peak on the device, None where there is no such number.
        examples: its first pictures, at most 8.
        failure: why it failed, None if it did not.
    """

    name: str
    requested: CacheConfig | str
    config: CacheConfig | None = None
    seconds: dict[int, PartSeconds] = field(default_factory=dict)
    quality: dict[str, Any] | None = None
    statistics: dict[str, Any] | None = None
    device_bytes: int | None = None
    examples: list[Image] = field(default_factory=list)
    failure: str | None = None


@dataclass
class Comparison:
    """Results by name, the reference first.

    Attributes:
        prompts: one for each image of a run; for a class, its name.
        complete: False if Ctrl-C ended it early.
    """

    results: dict[str, ConfigurationResult]
    prompts: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def reference(self) -> ConfigurationResult:
        return self.results[REFERENCE]

    @property
    def failed(self) -> list[ConfigurationResult]:
        return [result for result in self.results.values() if result.failure is not None]


def named_configurations(names: Sequence[str] = ()) -> dict[str, CacheConfig | str]:
    """Configurations by name: preset names, and JSON files of plans or CacheConfig fields by stem.

    The reference comes first and is always there; without names all presets are taken.

    Raises:
        ValueError: an unknown name, one that stands for two configurations, or a file that is not
            a configuration.
        OSError: a file cannot be read.
    """
    configurations: dict[str, CacheConfig | str] = {REFERENCE: REFERENCE}
    for entry in names or CACHE_PRESETS:
        config = entry if entry in CACHE_PRESETS else read_configuration(entry)
        name = entry if entry in CACHE_PRESETS else Path(entry).stem
        if configurations.setdefault(name, config) != config:
            raise ValueError(f"{entry}: another configuration is already called {name!r}")
    return configurations


def read_configuration(file: str) -> CacheConfig:
    """A JSON file of CacheConfig fields, or a plan; ValueError if it is neither."""
    path = Path(file)
    if path.suffix != ".json" or not path.is_file():
        raise ValueError(
            f"unknown configuration {file!r}; known are {', '.join(CACHE_PRESETS)}, "
            "and JSON files of plans or CacheConfig fields"
        )
    try:
        values = read_json_object(path, MAX_FILE_BYTES)
        return (
            StoredPlan.from_dict(values).config
            if "plan" in values
            else CacheConfig.from_dict(values)
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a cache configuration ({error})") from error


class Comparer:
    """Draws the same images with several configurations on one loaded model.

    Args:
        pipeline: with the similarity data that all configurations use.
        configurations: by name, with :data:`REFERENCE` first; see :func:`named_configurations`.
        prompts, options: what each run draws.
        metrics: further metrics beside PSNR and SSIM.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """

    def __init__(
        self,
        pipeline: HARTPipeline,
        configurations: Mapping[str, CacheConfig | str],
        prompts: Sequence[Any],
        options: GenerationOptions | VARGenerationOptions,
        metrics: Sequence[Metric] = (),
    ) -> None:
        import_ssim()
        self._pipeline = pipeline
        self._prompts, self._options = prompts, options
        self._metrics = metrics
        self._reference_images: list[Image] = []
        self.comparison = Comparison(
            {name: ConfigurationResult(name, config) for name, config in configurations.items()},
            [
                prompt if isinstance(prompt, str) else f"class {prompt}"
                for prompt in prompts
                for _ in range(options.num_images_per_prompt)
            ],
        )

    def run(self, rounds: int = DEFAULT_ROUNDS, warmup: int = 1, quiet: bool = False) -> Comparison:
        """Measure; Ctrl-C ends it early and keeps what is finished.

        Arguments and errors are those of :func:`hart.evaluation.timing.take_turns`.
        """
        model = self._pipeline.transformer
        names = list(self.comparison.results)
        try:
            with caching_for_a_while(model):
                self.comparison.complete = take_turns(names, rounds, warmup, quiet, self._try)
        finally:
            self._reference_images = []
        return self.comparison

    def _try(self, name: str, turn: int) -> None:
        """Measure one run; whatever it is that one configuration cannot do, the others may."""
        result = self.comparison.results[name]
        if result.failure is not None:
            return
        try:
            self._measure(result, turn)
            return
        except Exception as error:
            result.failure = one_line(f"{type(error).__name__}: {error}")
        # Out here the exception no longer holds on to the tensors of the run that failed.
        if self._pipeline.device.type == "cuda":
            torch.cuda.empty_cache()

    def _measure(self, result: ConfigurationResult, turn: int) -> None:
        if self.comparison.reference.failure is not None:
            raise RuntimeError(f"{REFERENCE}, the reference, failed")
        pipeline = self._pipeline
        pipeline.model.set_cache_config(result.requested)
        result.config = pipeline.model.cache_config
        if pipeline.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pipeline.device)
        output = pipeline(self._prompts, quiet=True, **self._options.to_dict())
        if pipeline.device.type == "cuda":
            peak = device_memory(pipeline.device)["device_bytes"]
            result.device_bytes = max(peak, result.device_bytes or 0)
        if result.quality is None:
            self._judge(result, output)
        if turn >= 0:
            result.seconds[turn] = mean_seconds(output.results, has_text_encoder(pipeline))

    def _judge(self, result: ConfigurationResult, output: HARTPipelineOutput) -> None:
        """Compare the images of the first run; those of the others are the same."""
        if result.name == REFERENCE:
            self._reference_images = output.images
        result.quality = quality(
            output.images, self._reference_images, self.comparison.prompts, self._metrics
        )
        result.statistics = output.statistics
        result.examples = output.images[:MAX_EXAMPLES]
