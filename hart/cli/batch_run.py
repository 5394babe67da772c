"""The steps of ``hart batch`` once the checkpoint is loaded."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from hart.batch.calibration import merged_tables, tables_to_dict
from hart.batch.drawing import Drawer
from hart.batch.folder import BatchFolder, Record, Row
from hart.batch.jobs import Job, JobList, plan_batches
from hart.batch.processes import Processes
from hart.cli.batch_similarity import prepare_batch_similarity
from hart.cli.output import save_result
from hart.cli.report import similarity_entry
from hart.cli.run import Run
from hart.cli.similarity import keep_calibration, say_calibration
from hart.evaluation.environment import environment
from hart.pipeline import ImageResult
from hart.utils.files import write_json

REPORT_FILE = "batch_report.json"
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class BatchRun:
    """One run of the command on one process.

    Args:
        run: the loaded checkpoint and the options.
        folder: where everything goes; the main process has locked it.
        found: the content of the file of prompts.
        processes: who shares the work.
    """

    def __init__(self, run: Run, folder: BatchFolder, found: JobList, processes: Processes) -> None:
        self.run, self.folder, self.found, self.processes = run, folder, found, processes
        self.calibrating = run.pipeline.model.calibration
        self.keep_images = run.args.save_images
        self.drawer = Drawer(
            run.pipeline, run.options, run.options.batch_size, run.say, self._measure_anew
        )
        self.started = time.perf_counter()

    def draw(self) -> None:
        """Draw what is missing, and leave rows, report and, when calibrating, a table.

        Raises:
            ValueError: the folder belongs to another run, or the memory is too small.
            OSError: the folder cannot be written.
        """
        self.similarity = prepare_batch_similarity(self.run, self.found.jobs, self.processes)
        todo, start = self.processes.from_main(self._begin() if self._is_main else None)
        try:
            self._draw_share(todo)
            self.processes.wait()
        finally:
            if self._is_main:
                rows = self.folder.write_rows()
        if self._is_main:
            if self.calibrating:
                self._finish_calibration(start)
            self.folder.close_records()
            self._report(todo, rows)

    @property
    def _is_main(self) -> bool:
        return self.processes.is_main

    # --- what is missing ----------------------------------------------------------------------

    def _begin(self) -> tuple[list[list[Job]], Any]:
        """The batches to draw, and the table that a calibration goes on from."""
        self.folder.require_settings(self._settings())
        rows = self.folder.write_rows()
        if not self.calibrating:  # its records are rows and nothing else
            self.folder.close_records()
        before = self.run.pipeline.model.similarity
        start = tables_to_dict(before) if self.calibrating and before.images else None
        start = self.folder.open_records(start)
        images = self.keep_images and not self.calibrating
        missing = self.folder.missing(self.found.jobs, rows, images)
        plan = plan_batches(self.found.jobs, self.run.options.batch_size)
        left = [[job for job in batch if job.index in missing] for batch in plan]
        finished = len(self.found.jobs) - len(missing)
        if finished:
            self.run.say(f"{finished} of {len(self.found.jobs)} images are finished already")
        return [batch for batch in left if batch], start

    def _settings(self) -> dict[str, Any]:
        """What decides how images look, beside prompt, seed and preset."""
        run, model = self.run, self.run.pipeline.model
        options = run.options.to_dict()
        for name in ("seed", "batch_size", "max_token_length"):
            del options[name]  # in the rows; changes nothing; can be nothing else
        instruction = run.pipeline.system_prompt if run.options.use_llm_system_prompt else ""
        uses_table = self.similarity.origin != "none" and not self.calibrating
        return {
            **options,
            "weights": model.weight_fingerprint(),
            "system_prompt": _digest(instruction),
            "cache_config": model.cache_config.to_dict(),
            "use_cache": model.use_cache,
            "similarity": _digest(tables_to_dict(model.similarity)) if uses_table else None,
            "calibration": self.calibrating,
            "calibration_file": str(self.similarity.path) if self.calibrating else None,
            "device": run.pipeline.device.type,
            "dtype": str(run.pipeline.dtype).removeprefix("torch."),
        }

    # --- drawing ------------------------------------------------------------------------------

    def _draw_share(self, todo: Sequence[list[Job]]) -> None:
        total = sum(map(len, todo))
        before = self.folder.count_recorded() if self._is_main else 0
        hidden = True if self.run.args.quiet or not self._is_main else None
        with tqdm(total=total, unit="image", bar_format=_BAR, disable=hidden) as bar:
            for batch in self.processes.split(todo):
                for results, tables in self._drawn(batch):
                    self._keep(results, batch, tables)
                    if self._is_main:  # the bar shows what all processes have finished
                        bar.update(self.folder.count_recorded() - before - bar.n)

    def _drawn(self, batch: list[Job]):
        """Results, and when calibrating what they measured, of each piece of a batch."""
        for results in self.drawer.draw(batch):
            measured = self.run.pipeline.model.similarity if self.calibrating else None
            yield results, measured and tables_to_dict(measured)

    def _measure_anew(self) -> None:
        """A generation may be measured and fail when it is decoded; it is drawn again then."""
        if self.calibrating:
            self.run.pipeline.model.clear_similarity_data()

    def _keep(self, results: list[ImageResult], batch: list[Job], tables: Any) -> None:
        jobs = {job.index: job for job in batch}
        if self.keep_images:
            for result in results:
                save_result(result, self.run, durable=True)
        rows = [self._row(result, jobs[result.index]) for result in results]
        self.folder.add_record(Record(rows, tables))

    def _row(self, result: ImageResult, job: Job) -> Row:
        calls = [site for stage in result.stages.values() for site in stage.values()]
        return {
            "index": job.index,
            "line": job.line,
            "prompt": job.prompt,
            "seed": job.seed,
            "cache_preset": job.cache_preset,
            "file": job.file if self.keep_images else None,
            "batch_size": result.batch_size,
            "seconds": result.seconds,
            "modules": {kind: sum(s[kind] for s in calls) for kind in ("computed", "reused")},
        }

    # --- the end ------------------------------------------------------------------------------

    def _finish_calibration(self, start: Any) -> None:
        """Save the mean over ``start`` and all records; the same however often it is repeated."""
        records = self.folder.records()
        parts = [*([start] if start else []), *(record.extra for record in records)]
        if not records:
            return
        self.run.pipeline.transformer.similarity = merged_tables(self.run.pipeline, parts)
        self.similarity.continued = start["images"] if start else 0
        keep_calibration(self.run, self.similarity)
        say_calibration(self.run, self.similarity)

    def _report(self, todo: Sequence[list[Job]], rows: dict[int, Row]) -> None:
        seconds = time.perf_counter() - self.started
        drawn = sum(map(len, todo))
        write_json(
            self.folder.path / REPORT_FILE,
            {
                "settings": self._settings(),
                "similarity": similarity_entry(self.similarity),
                "environment": environment(self.run.pipeline),
                "processes": self.processes.count,
                "batch_size": self.drawer.batch_size,
                "images": len(rows),
                "drawn_now": drawn,
                "seconds": seconds,
                "bad_lines": [vars(bad) for bad in self.found.bad],
            },
        )
        rate = f", {drawn / seconds:.3g} images per second" if drawn else ""
        self.run.say(f"{drawn} images drawn in {seconds:.1f} s{rate}; {len(rows)} in total")
        if self.found.bad:
            self.run.say(f"{len(self.found.bad)} lines could not be drawn, see {REPORT_FILE}")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode("utf-8")).hexdigest()
