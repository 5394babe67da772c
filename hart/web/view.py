"""What the galleries show while a drawing runs."""

from __future__ import annotations

from typing import Any

from PIL import Image

from hart.pipeline import StagePreview
from hart.web import render
from hart.web.events import BatchDone, Preview, Progress
from hart.web.requests import DrawRequest

MAX_SHOWN = 512
"""Longest side of a preview in pixels."""

Updates = dict[str, Any]
"""New content by the name of the part of the page that shows it."""


class DrawingView:
    """Collects the pictures of one drawing.

    Attributes:
        stages: per stage the first configuration's pictures, small; empty without previews.
    """

    def __init__(self, request: DrawRequest) -> None:
        self._name = request.name
        self._shown: dict[tuple[int, str], tuple[Image.Image, str]] = {}
        self._strip: dict[int, tuple[Image.Image, str]] = {}
        self.stages: dict[str, list[Image.Image]] = {}

    @staticmethod
    def cleared() -> Updates:
        empty: Updates = dict.fromkeys(("heat_map", "files"))
        return {**empty, "gallery": [], "strip": [], "cards": "", "tables": ""}

    def update(self, event: Progress | Preview | BatchDone) -> Updates:
        if isinstance(event, Progress):
            return {"status": render.progress(event)}
        if isinstance(event, Preview):
            return self._preview(event.name, event.preview)
        for result in event.results:
            caption = f"{event.name}, seed {result.seed}"
            self._shown[result.index, event.name] = (_small(result.image), caption)
        if event.name == self._name and self.stages:
            self._keep_last(event)
        return {"gallery": self._gallery(), "strip": list(self._strip.values())}

    def _preview(self, name: str, preview: StagePreview) -> Updates:
        label = f"stage {preview.si + 1}"
        small = [_small(image) for image in preview.images]
        for request, image in zip(preview.requests, small, strict=True):
            caption = f"{name}, seed {request.seed}: {label} of {preview.num_stages}"
            self._shown[request.index, name] = (image, caption)
        if name == self._name:
            self._strip[preview.si] = (small[0], label)
            self.stages.setdefault(label, []).extend(small)
        return {"gallery": self._gallery(), "strip": list(self._strip.values())}

    def _keep_last(self, event: BatchDone) -> None:
        si = len(event.results[0].stages_s) - 1
        small = [_small(result.image) for result in event.results]
        self._strip[si] = (small[0], f"stage {si + 1}")
        self.stages.setdefault(f"stage {si + 1}", []).extend(small)

    def _gallery(self) -> list[tuple[Image.Image, str]]:
        """By image, the asked-for configuration first."""
        order = sorted(self._shown, key=lambda key: (key[0], key[1] != self._name))
        return [self._shown[key] for key in order]


def _small(image: Image.Image) -> Image.Image:
    """At most :data:`MAX_SHOWN` pixels wide and high; small ones as they are."""
    if max(image.size) <= MAX_SHOWN:
        return image
    small = image.copy()
    small.thumbnail((MAX_SHOWN, MAX_SHOWN))
    return small
