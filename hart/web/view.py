"""What the galleries show while a drawing runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from hart.web import render
from hart.web.events import BatchDone, Preview, Progress, WarmingUp
from hart.web.requests import DrawRequest
from hart.web.results import PREVIEW_PREFIX
from hart.web.tables import called
from hart.web.worker import Waiting

MAX_SHOWN, MAX_THUMBNAIL = 512, 96
"""Longest side in pixels of a picture that is being drawn, and of its earlier stages."""

Updates = dict[str, Any]
"""New content by the name of the part of the page that shows it."""

NOTHING_DRAWN: Updates = {
    **dict.fromkeys(("pairs", "gallery"), ()),
    **dict.fromkeys(("strip", "cards", "tables"), ""),
    "download": None,
}


class DrawingView:
    """Collects the pictures of one drawing, which lie in ``folder`` until it is finished.

    ``stages``: per stage the first configuration's pictures, small; empty without previews.
    """

    def __init__(self, request: DrawRequest, folder: Path) -> None:
        self._folder = folder
        self._name = request.name
        self._columns = 3 if request.compare else min(2, len(request.prompts))
        self._shown: dict[tuple[int, str], tuple[str, str]] = {}
        self._before: dict[tuple[int, str], Path] = {}
        self._thumbnails: dict[int, list[tuple[Image.Image, str]]] = {}
        self.stages: dict[str, list[Image.Image]] = {}

    def cleared(self) -> Updates:
        """Updates that empty everything."""
        return {**NOTHING_DRAWN, "columns": self._columns}

    def update(self, event: Waiting | WarmingUp | Progress | Preview | BatchDone) -> Updates:
        """What an event changes on the page."""
        if isinstance(event, Waiting | WarmingUp | Progress):
            return {"status": render.status(event)}
        if isinstance(event, Preview):
            preview = event.preview
            seeds = [(request.index, request.seed) for request in preview.requests]
            self._add(event.name, preview.si, seeds, preview.images)
        else:
            seeds = [(result.index, result.seed) for result in event.results]
            images = [result.image for result in event.results]
            self._add(event.name, len(event.results[0].stages_s) - 1, seeds, images)
        # By image, the asked-for configuration first.
        order = sorted(self._shown, key=lambda key: (key[0], key[1] != self._name))
        return {
            "gallery": [self._shown[key] for key in order],
            "strip": render.strip("Stage by stage", self._thumbnails.values()),
        }

    def _add(
        self, name: str, si: int, seeds: list[tuple[int, int]], images: list[Image.Image]
    ) -> None:
        """Show the pictures of a batch after stage ``si``."""
        label = f"stage {si + 1}"
        for (index, seed), image in zip(seeds, images, strict=True):
            shown = small(image, MAX_SHOWN)
            self._show((index, name), si, shown, f"{called(name)}, seed {seed}")
            if name == self._name and (index in self._thumbnails or si == 0):
                row = self._thumbnails.setdefault(index, [])
                row.append((small(image, MAX_THUMBNAIL), str(si + 1)))
                self.stages.setdefault(label, []).append(shown)

    def _show(self, key: tuple[int, str], si: int, image: Image.Image, caption: str) -> None:
        """Show a picture in place of its last one, which a slow browser may still be fetching:
        the file that goes is the one before that."""
        index, name = key
        file = self._folder / f"{PREVIEW_PREFIX}{index:03d}-{name}-{si:02d}.webp"
        image.save(file, "WEBP", quality=80)
        if key in self._before:
            self._before[key].unlink(missing_ok=True)
        if key in self._shown:
            self._before[key] = Path(self._shown[key][0])
        self._shown[key] = (str(file), caption)


def small(image: Image.Image, side: int) -> Image.Image:
    """At most ``side`` pixels wide and high; smaller ones as they are."""
    if max(image.size) <= side:
        return image
    copy = image.copy()
    copy.thumbnail((side, side))
    return copy
