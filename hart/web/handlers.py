"""What the page's buttons do, without the page: updates by the name of the part they change."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hart.pipeline.savings import no_reuse_lines
from hart.web import render
from hart.web.choices import CUSTOM, TUNED, Choices
from hart.web.events import Calibrated, Drawn, Tuned
from hart.web.files import save_calibration, save_drawing
from hart.web.requests import (
    MAX_CALIBRATION_PROMPTS,
    MAX_TUNING_PROMPTS,
    CalibrationRequest,
    DrawRequest,
    TuningRequest,
    read_choice,
    read_options,
    read_prompts,
    read_switch,
    read_target,
)
from hart.web.results import KEEP, Keep, Results
from hart.web.studio import Studio
from hart.web.tables import called, headline, image_table, stage_table
from hart.web.view import NOTHING_DRAWN, DrawingView, Updates, small
from hart.web.visitors import Visitors
from hart.web.worker import Worker

SPEEDUP_NOTE = (
    "Both were warmed up and drawn in turns, each image once; "
    "hart generate --compare_configs repeats the measurement."
)
MAX_SAMPLE = 256
"""Longest side in pixels of a picture that is there before anybody asked."""

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
        choices: what can be drawn with; by default what the checkpoint offers.
    """

    def __init__(
        self,
        studio: Studio,
        name: str,
        folder: Path,
        max_images: int,
        keep: Keep = KEEP,
        advise: Callable[[Sequence[str]], list[str]] | None = None,
        choices: Choices | None = None,
    ) -> None:
        self.studio, self.folder, self.max_images = studio, folder.resolve(), max_images
        self.results, self.visitors = Results(self.folder, keep), Visitors()
        self._writer = Worker(sys.maxsize)  # the studio bounds how many can wait for it
        self._name, self._advise = name, advise or (lambda prompts: [])
        self.choices = choices or Choices(studio.pipeline)

    # --- drawing ------------------------------------------------------------------------------

    def draw(
        self, prompts, seed, cfg_scale, quality, base, stages, sites, threshold, adaptive,
        interpolation, compare, previews,
    ) -> Generator[Updates, None, None]:  # fmt: skip
        """Draw what the page says; never raises. See :meth:`Choices.read`.

        Updates ``status``, ``pairs`` (to compare), ``gallery``, ``columns`` (of the gallery),
        ``strip``, ``cards``, ``tables`` and ``download``.
        """

        def updates() -> Iterator[Updates]:
            fields = (stages, sites, threshold, adaptive, interpolation)
            request = DrawRequest(
                read_prompts(prompts, self.max_images),
                read_options(seed, cfg_scale),
                *self.choices.read(quality, base, *fields),
                compare=read_switch("Comparing", compare),
                previews=read_switch("Showing every stage", previews),
            )
            yield from self._draw(request)

        yield from self._guarded(updates(), NOTHING_DRAWN)

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
        own, images = drawn.runs[0], len(drawn.request.prompts)
        reasons = no_reuse_lines(own.reasons, own.statistics["saved_share"] > 0)
        lines = [*self._advise(drawn.request.prompts), *drawn.notes]
        lines += [line[0].upper() + line[1:] for line in reasons]
        if drawn.request.compare and len(drawn.runs) == 1:
            lines.append("This is what the others are compared with.")
        elif drawn.request.compare:
            lines.append(SPEEDUP_NOTE)
        stages = stage_table(drawn).without("attention reused", "MLP reused")
        rows = image_table(drawn).without("image", "seed", "PSNR (dB)")
        tables = render.table(stages, total=True) + render.table(rows)
        done = f"Done. {images} picture{'s' * (images > 1)}, {called(drawn.request.name)}."
        cards = render.cards(headline(drawn)) + render.saved(own.statistics)
        planned = [f"{own.config}."]
        if own.config.adaptive_threshold:
            planned.append("This was planned before the threshold adapted to the pictures.")
        where = render.notes(planned) + render.plan_map(own.plan)
        return {
            "status": render.message(done),
            "pairs": [tuple(map(str, pair)) for pair in saved.pairs],
            "gallery": [(str(file), caption) for file, caption in saved.pictures],
            "cards": cards + render.notes(lines),
            "tables": render.folded("What was done where", where)
            + render.folded("Times by stage and picture", tables),
            "download": str(saved.download),
        }

    # --- calibrating --------------------------------------------------------------------------

    def calibrate(self, prompts, seed, cfg_scale, add, preset) -> Generator[Updates, None, None]:
        """Calibrate on what the page says; never raises.

        Updates ``status``, ``heat_map``, ``download`` and ``about``.
        """

        def updates() -> Iterator[Updates]:
            request = CalibrationRequest(
                read_prompts(prompts, MAX_CALIBRATION_PROMPTS),
                read_options(seed, cfg_scale),
                add=read_switch("Adding to the table", add),
            )
            read_choice("preset", preset, self.choices.bases)
            yield from self._calibrate(request, preset)

        yield from self._guarded(updates(), {"heat_map": None, "download": None})

    def _calibrate(self, request: CalibrationRequest, preset: str) -> Iterator[Updates]:
        waiting = render.message("Waiting for the model …")
        yield {"status": waiting, "heat_map": None, "download": None}
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
            "download": str(saved.download),
            "about": self.about(),
        }

    def restore(self) -> Generator[Updates, None, None]:
        """Use the checkpoint's own table again. Updates ``status`` and ``about``; never raises."""
        yield from self._guarded(self._restore(), {})

    def _restore(self) -> Iterator[Updates]:
        yield from _each(self.studio.restore(), lambda event: [{"status": render.status(event)}])
        yield {
            "status": render.message("The table that the page started with is in use again."),
            "about": self.about(),
        }

    # --- finding a plan -----------------------------------------------------------------------

    def tune(self, prompts, seed, cfg_scale, target, value) -> Generator[Updates, None, None]:
        """Find a plan for what the page says; never raises.

        Updates ``status``, ``plan``, ``download``, ``quality`` and ``base``.
        """

        def updates() -> Iterator[Updates]:
            known = read_prompts(prompts, MAX_TUNING_PROMPTS)
            if len(known) < 2:
                raise ValueError("Write at least two prompts: the plan is verified on the last.")
            count = len(known) - max(1, len(known) // 3)
            request = TuningRequest(
                known[:count],
                known[count:],
                read_options(seed, cfg_scale),
                read_target(target, value),
            )
            yield from self._tune(request)

        yield from self._guarded(updates(), {"plan": "", "download": None})

    def _tune(self, request: TuningRequest) -> Iterator[Updates]:
        yield {"status": render.message("Waiting for the model …"), "plan": "", "download": None}
        with self.results.request() as folder:

            def show(event: Any) -> Iterator[Updates]:
                if isinstance(event, Tuned):
                    yield self._finish_tuning(event, folder)
                else:
                    yield {"status": render.status(event)}

            yield from _each(self.studio.tune(request), show)

    def _finish_tuning(self, tuned: Tuned, folder: Path) -> Updates:
        plan = tuned.plan
        self.choices.plans[TUNED] = plan
        done = "Done. The plan is the quality “tuned” for everybody on this page now."
        shown = render.figures(plan) + render.plan_map(plan.config.plan)
        return {
            "status": render.message(done),
            "plan": shown + render.notes(tuned.notes),
            "download": str(plan.save(folder / "plan.json")),
            **self.offered(),
        }

    # --- the rest -----------------------------------------------------------------------------

    @staticmethod
    def cancelled() -> Updates:
        """After a request was cancelled."""
        return {"status": render.message("Cancelled.")}

    def offered(self) -> Updates:
        """The names that can be chosen as ``quality`` and as ``base``."""
        return {"quality": [*self.choices.qualities, CUSTOM], "base": list(self.choices.bases)}

    def chosen(self, quality: object, base: Any, *fields: Any) -> list[Any]:
        """The words about a quality, and the base and the fields that it means."""
        if isinstance(quality, str) and quality in self.choices.qualities:
            base = self.choices.base_of(quality)
            fields = tuple(self.choices.fields(base))
        return [self.described(quality, base, *fields), base, *fields]

    def based(self, base: Any, *fields: Any) -> list[Any]:
        """The words about a base, and its fields."""
        if isinstance(base, str) and base in self.choices.bases:
            fields = tuple(self.choices.fields(base))
        return [self.described(CUSTOM, base, *fields), *fields]

    def described(self, quality: Any, base: Any, *fields: Any) -> str:
        """What would be done, in words and as a map; what is wrong with it, if anything is."""
        try:
            _, config = self.choices.read(quality, base, *fields)
        except ValueError as error:
            return render.failure(str(error))
        words = f"{base} as set below." if quality == CUSTOM else self.choices.words(quality)
        plan = render.plan_map(self.choices.map_of(config))
        return render.notes([words]) + render.folded("Module by module", plan)

    def samples(self) -> str:
        """Pictures that the model drew before anybody asked; empty without any."""
        figures = [(small(image, MAX_SAMPLE), prompt) for prompt, image in self.studio.samples]
        return render.strip("Drawn here before you came", [figures] if figures else [])

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

    def _guarded(self, updates: Iterator[Updates], nothing: Updates) -> Iterator[Updates]:
        """Whatever goes wrong becomes a line on the page, which lives on, above ``nothing``."""
        try:
            yield from updates
        except (ValueError, OSError) as error:
            yield {**nothing, "status": render.failure(str(error))}
        except Exception as error:
            _log.exception("a request failed")
            failed = render.failure(f"This failed ({type(error).__name__}: {error}).")
            yield {**nothing, "status": failed}


def _each(
    events: Generator[Any, None, None], show: Callable[[Any], Iterable[Updates]]
) -> Iterator[Updates]:
    """What ``show`` makes of every event; nothing where nothing has happened."""
    with contextlib.closing(events):
        for event in events:
            yield from [{}] if event is None else show(event)
