"""What the page's buttons do, without the page: updates by the name of the part they change."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.pipeline.savings import no_reuse_lines
from hart.web import render
from hart.web.events import Calibrated, Drawn
from hart.web.files import save_calibration, save_drawing
from hart.web.requests import (
    CUSTOM,
    DEFAULT_PRESET,
    MAX_CALIBRATION_PROMPTS,
    CalibrationRequest,
    DrawRequest,
    read_config,
    read_options,
    read_preset,
    read_prompts,
    read_switch,
)
from hart.web.results import KEEP, Keep, Results
from hart.web.studio import Studio
from hart.web.tables import headline, image_table, stage_table
from hart.web.view import DrawingView, Updates
from hart.web.visitors import Visitors
from hart.web.worker import Worker

SPEEDUP_NOTE = (
    "Both were warmed up and drawn in turns, each image once; "
    "hart generate --compare_configs repeats the measurement."
)
_log = logging.getLogger(__name__)


class Handlers:
    """Turns the page's values into requests and their events into updates.

    Args:
        studio: the model.
        name: what the page calls the model.
        folder: where results go; ``results`` tells what may be fetched of it.
        max_images: images of one request.
        keep: how many results stay, and for how long.
        advise: lines for the writer of such prompts, shown beside what is drawn.
    """

    def __init__(
        self,
        studio: Studio,
        name: str,
        folder: Path,
        max_images: int,
        keep: Keep = KEEP,
        advise: Callable[[Sequence[str]], list[str]] | None = None,
    ) -> None:
        self.studio, self.folder, self.max_images = studio, folder.resolve(), max_images
        self.results, self.visitors = Results(self.folder, keep), Visitors()
        self._writer = Worker(sys.maxsize)  # the studio bounds how many can wait for it
        self._name, self._advise = name, advise or (lambda prompts: [])

    @property
    def _schedule(self):
        return self.studio.pipeline.transformer.schedule

    # --- drawing ------------------------------------------------------------------------------

    def draw(
        self, prompts, seed, cfg_scale, preset, stages, sites, threshold, adaptive, interpolation,
        compare, previews, base=DEFAULT_PRESET,
    ) -> Generator[Updates, None, None]:  # fmt: skip
        """Draw what the page says; never raises. ``base``: the preset that custom caching changes.

        Updates ``status``, ``gallery``, ``columns`` (of the gallery), ``strip``, ``cards``,
        ``heat_map``, ``tables`` and ``files``.
        """

        def updates() -> Iterator[Updates]:
            plan = self.studio.plans.get(preset) if isinstance(preset, str) else None
            custom = (stages, sites, threshold, adaptive, interpolation, base)
            request = DrawRequest(
                read_prompts(prompts, self.max_images),
                read_options(seed, cfg_scale),
                str(preset),
                plan or read_config(preset, self._schedule, *custom),
                compare=read_switch("Comparing", compare),
                previews=read_switch("Showing every stage", previews),
            )
            yield from self._draw(request)

        yield from self._guarded(updates())

    def _draw(self, request: DrawRequest) -> Iterator[Updates]:
        with self.results.request() as folder:
            view = DrawingView(request, folder)

            def show(event: Any) -> Iterator[Updates]:
                if isinstance(event, Drawn):
                    yield {"status": render.message("Writing the results …")}
                    yield from self._written(partial(self._finish, event, view, folder))
                else:
                    yield view.update(event)

            notes = {"cards": render.notes(self._advise(request.prompts))}
            yield {**view.cleared(), **notes, "status": render.message("Waiting for the model …")}
            yield from _each(self.studio.draw(request), show)

    def _finish(self, drawn: Drawn, view: DrawingView, folder: Path) -> Updates:
        saved = save_drawing(drawn, view.stages, self.studio.pipeline, folder)
        own = drawn.runs[0]
        config = str(drawn.request.config).removeprefix("CacheConfig(").removesuffix(")")
        reasons = no_reuse_lines(own.reasons, own.statistics["saved_share"] > 0)
        lines = [*self._advise(drawn.request.prompts), *drawn.notes]
        lines += [line[0].upper() + line[1:] for line in reasons]
        if drawn.request.compare and len(drawn.runs) == 1:
            lines.append("This is what the others are compared with.")
        elif drawn.request.compare:
            lines.append(SPEEDUP_NOTE)
        tables = render.table(stage_table(drawn), total=True) + render.table(image_table(drawn))
        return {
            "status": render.message(f"Done. {drawn.request.name}: {config}."),
            "gallery": [(str(file), caption) for file, caption in saved.pictures],
            "cards": render.cards(headline(drawn)) + render.notes(lines),
            "heat_map": str(saved.heat_map),
            "tables": render.folded("Times and reuse by stage, images", tables),
            "files": [str(file) for file in saved.files],
        }

    # --- calibrating --------------------------------------------------------------------------

    def calibrate(self, prompts, seed, cfg_scale, add, preset) -> Generator[Updates, None, None]:
        """Calibrate on what the page says; never raises.

        Updates ``status``, ``heat_map``, ``files`` and ``about``.
        """

        def updates() -> Iterator[Updates]:
            request = CalibrationRequest(
                read_prompts(prompts, MAX_CALIBRATION_PROMPTS),
                read_options(seed, cfg_scale),
                add=read_switch("Adding to the table", add),
            )
            read_preset(preset, self._schedule)
            yield from self._calibrate(request, preset)

        yield from self._guarded(updates())

    def _calibrate(self, request: CalibrationRequest, preset: str) -> Iterator[Updates]:
        yield {"status": render.message("Waiting for the model …"), "heat_map": None, "files": []}
        with self.results.request() as folder:

            def show(event: Any) -> Iterator[Updates]:
                if isinstance(event, Calibrated):
                    finish = partial(self._finish_calibration, event, preset, folder)
                    yield from self._written(finish)
                else:
                    yield {"status": render.status(event)}

            yield from _each(self.studio.calibrate(request), show)

    def _finish_calibration(self, calibrated: Calibrated, preset: str, folder: Path) -> Updates:
        saved = save_calibration(calibrated, self.studio.pipeline, preset, folder)
        images = calibrated.tables.images
        done = f"Done: the table of {images} images is in use for everybody now."
        return {
            "status": render.message(done),
            "heat_map": str(saved.heat_map),
            "files": [str(file) for file in saved.files],
            "about": self.about(),
        }

    def restore(self) -> Generator[Updates, None, None]:
        """Use the checkpoint's own table again. Updates ``status`` and ``about``; never raises."""
        yield from self._guarded(self._restore())

    def _restore(self) -> Iterator[Updates]:
        yield from _each(self.studio.restore(), lambda event: [{"status": render.status(event)}])
        yield {
            "status": render.message("The table that the page started with is in use again."),
            "about": self.about(),
        }

    # --- the rest -----------------------------------------------------------------------------

    @staticmethod
    def cancelled() -> Updates:
        """After a request was cancelled."""
        return {"status": render.message("Cancelled.")}

    def preset_fields(self, preset: object) -> tuple[Any, ...]:
        """Stages, sites, threshold, adaptive and interpolation of a preset; nothing if custom."""
        if not isinstance(preset, str) or preset not in CACHE_PRESETS:
            return ()
        config = preset_config(preset, self._schedule.patch_nums)
        return (
            list(config.skip_stages or ()),
            list(config.enabled_sites),
            config.threshold,
            config.adaptive_threshold,
            config.interpolation_mode,
        )

    def preset_choices(self) -> list[str]:
        return [*self.studio.plans, *CACHE_PRESETS, CUSTOM]

    @property
    def first_preset(self) -> str:
        """The one that is chosen in the beginning."""
        return next(iter(self.studio.plans), DEFAULT_PRESET)

    def about(self) -> str:
        """One line about the model and its similarity table."""
        pipeline = self.studio.pipeline
        model, images = pipeline.transformer, pipeline.transformer.similarity.images
        table = f"similarities of {images} images"
        if model.similarity.is_empty:
            table = "no similarity table yet: calibrate before anything can be reused"
        first, last = (f"{side}×{side}" for side in (model.patch_nums[0], model.patch_nums[-1]))
        return render.message(
            f"{self._name} · {model.depth} layers · {len(model.patch_nums)} stages, "
            f"{first} to {last} · {pipeline.device} {str(pipeline.dtype).removeprefix('torch.')} · "
            f"{table}"
        )

    def _written(self, finish: Callable[[], Updates]) -> Iterator[Updates]:
        """What ``finish`` returns. Figures take much memory, and every thread keeps its own: they
        are made in one."""
        events = self._writer.events(lambda emit: emit(finish()))
        return _each(events, lambda event: [event if isinstance(event, dict) else {}])

    def _guarded(self, updates: Iterator[Updates]) -> Iterator[Updates]:
        """Whatever goes wrong becomes a line on the page, which lives on."""
        try:
            yield from updates
        except (ValueError, OSError) as error:
            yield {"status": render.failure(str(error))}
        except Exception as error:
            _log.exception("a request failed")
            yield {"status": render.failure(f"This failed ({type(error).__name__}: {error}).")}


def _each(
    events: Generator[Any, None, None], show: Callable[[Any], Iterable[Updates]]
) -> Iterator[Updates]:
    """What ``show`` makes of every event; nothing where nothing has happened."""
    with contextlib.closing(events):
        for event in events:
            yield from [{}] if event is None else show(event)
