"""What a run gives back."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from hart.modules.models.transformer.generation_state import GenerationSeconds
from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.generation_counts import CALLS, GenerationCounts
from hart.pipeline.options import ImageRequest
from hart.pipeline.recipe import batch_texts
from hart.utils.errors import shown
from hart.utils.timing import Timeline

CallsPerStage = dict[str, dict[str, dict[str, int]]]
"""Token count of the stage -> site -> kind of call -> number of calls."""

TEXT_PART = "text"
DECODE_PART = "decode"
PREVIEW_PART = "preview"


@dataclass(frozen=True)
class StagePreview:
    """What the images of a batch look like after a stage.

    Attributes:
        si, num_stages: index of the stage, and how many stages the run has.
        requests: what is being drawn.
        images: the decoded feature map, one picture per request.
    """

    si: int
    num_stages: int
    requests: Sequence[ImageRequest]
    images: list[Image]


@dataclass(frozen=True)
class PartSeconds:
    """Wall time in seconds, part by part.

    Attributes:
        text_s: text encoding; None where there is no text encoder.
        stages_s: transformer and token drawing, one entry per stage.
        residual_s: the residual diffusion head, which runs in the last stage and is not in
            ``stages_s``.
        decode_s: from the feature map to the picture.
    """

    text_s: float | None
    stages_s: tuple[float, ...]
    residual_s: float
    decode_s: float

    @property
    def transformer_s(self) -> float:
        """All stages without the diffusion head."""
        return sum(self.stages_s)

    @property
    def total_s(self) -> float:
        return (self.text_s or 0.0) + self.transformer_s + self.residual_s + self.decode_s

    @property
    def seconds(self) -> dict[str, float | None]:
        """The parts' seconds by name, and ``total``, as reports have them."""
        return {
            "text": self.text_s,
            "transformer": self.transformer_s,
            "residual": self.residual_s,
            "decode": self.decode_s,
            "total": self.total_s,
        }


@dataclass(frozen=True)
class ImageResult(PartSeconds):
    """One finished image.

    The images of a batch are made together: its seconds are this image's equal share of the
    batch's, so that they sum up to the time of a run.

    Attributes:
        index: place in the run, from 0.
        prompt, seed: what it was drawn from; VAR's prompt is the index of a class.
        image: the picture in the form that was asked for, a PIL image by default.
        batch_size: images in its batch.
        stages: its module calls per stage and site, see :meth:`CacheStatistics.calls`. Empty if
            the model collects no statistics.
        metadata: texts for the image's file, from which :meth:`HARTPipeline.redraw` draws it again.
    """

    index: int
    prompt: str | int
    seed: int
    image: Any
    batch_size: int
    stages: CallsPerStage = field(repr=False)
    metadata: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def condition(self) -> dict[str, str | int]:
        """The prompt or the class under its name."""
        return {"prompt" if isinstance(self.prompt, str) else "class": self.prompt}

    def _repr_png_(self) -> bytes | None:
        """The picture, for notebooks."""
        show = getattr(self.image, "_repr_png_", None)
        return show and show()


@dataclass(frozen=True, repr=False)
class HARTPipelineOutput:
    """The result of a run.

    Attributes:
        images: the pictures in order: a list of PIL images, for "np" one array (B, H, W, 3), for
            "pt" one tensor (B, 3, H, W).
        results: the same with prompt, seed, seconds and reuse counts.
        statistics: cache statistics of the whole run, from ``model.get_cache_statistics()``.

    As a sequence it is its images.
    """

    images: Any
    results: list[ImageResult]
    statistics: dict[str, Any]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.images)

    def __getitem__(self, index: Any) -> Any:
        return self.images[index]

    @property
    def seeds(self) -> list[int]:
        """With which every image was drawn."""
        return [result.seed for result in self.results]

    def __repr__(self) -> str:
        if not self.results:
            return f"{type(self).__name__}(no images)"
        mean = sum(result.total_s for result in self.results) / len(self.results)
        seeds = shown(self.seeds, 40)
        saved = 100 * self.statistics["saved_share"]
        return (
            f"{type(self).__name__}({len(self)} images, seeds {seeds}, {mean:.2g} s each, "
            f"{saved:.2g} % of the transformer's work saved)"
        )

    def _repr_html_(self) -> str:
        """The pictures side by side, for notebooks."""
        return "".join(map(_figure, self.results))


def _figure(result: ImageResult) -> str:
    caption = html.escape(f"{result.prompt}, seed {result.seed}")
    png = result._repr_png_()
    picture = png and f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return (
        '<figure style="display:inline-block;max-width:18em;margin:0.3em">'
        f"{picture or ''}<figcaption>{caption}</figcaption></figure>"
    )


def together(images: list[Any]) -> Any:
    """Images in one of their forms as the output has them: (B, H, W, 3) or (B, 3, H, W)."""
    if images and isinstance(images[0], np.ndarray):
        return np.stack(images)
    return torch.stack(images) if images and isinstance(images[0], torch.Tensor) else images


def part_seconds(timeline: Timeline, num_stages: int) -> PartSeconds:
    """Read a finished batch's timeline; on CUDA waits for it."""
    totals, generation = timeline.totals(), GenerationSeconds.of(timeline, num_stages)
    return PartSeconds(
        totals[TEXT_PART], generation.stages_s, generation.residual_s, totals[DECODE_PART]
    )


def image_results(
    batch: Sequence[ImageRequest],
    images: Sequence[Any],
    seconds: PartSeconds,
    stages: CallsPerStage,
    recipe: Mapping[str, str],
) -> list[ImageResult]:
    """One result per image of a finished batch, drawn as ``recipe`` says."""
    share = len(batch)
    return [
        ImageResult(
            index=request.index,
            prompt=request.prompt,
            seed=request.seed,
            image=image,
            text_s=(seconds.text_s or 0.0) / share,
            stages_s=tuple(stage_s / share for stage_s in seconds.stages_s),
            residual_s=seconds.residual_s / share,
            decode_s=seconds.decode_s / share,
            batch_size=share,
            stages=stages,
            metadata={**batch_texts(batch, request), **recipe},
        )
        for request, image in zip(batch, images, strict=True)
    ]


def calls_of(counts: GenerationCounts | None) -> CallsPerStage:
    """What a batch's modules did for every image of it; empty if nothing was counted."""
    if counts is None:
        return {}
    return {
        str(length): {site: {kind: getattr(stage[site], kind) for kind in CALLS} for site in SITES}
        for length, stage in zip(counts.shape.stage_lengths, counts.stages, strict=True)
    }
