"""``hart batch``: draw a file of prompts, with several processes if there are, and resume."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hart.batch.calibration import merged_tables, tables_to_dict
from hart.batch.drawing import Drawer
from hart.batch.folder import BatchFolder, Record, Row
from hart.batch.jobs import Job, JobList, Task, plan_tasks, read_jobs, without_company
from hart.batch.processes import Processes, joined_processes
from hart.cli.arguments import generation_options
from hart.cli.interrupts import INTERRUPTED
from hart.cli.loading import draws_classes, load_pipeline, speaker
from hart.cli.output import prepare_output_folder, save_result
from hart.cli.prompts import say_what_is_unknown
from hart.cli.report import similarity_entry
from hart.cli.run import Run
from hart.cli.similarity import keep_calibration, prepare_batch_similarity, say_calibration
from hart.evaluation.environment import environment
from hart.pipeline import ImageResult
from hart.pipeline.options import plan_classes
from hart.utils.files import file_sha256, regular_size, write_json
from hart.utils.progress import progress_bar
from hart.utils.prompt_files import class_index

FAILED = 1
REPORT_FILE = "batch_report.json"
_MAX_NAMED = 5
_DIGEST_VALUES = 64
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


def run_batch(args: argparse.Namespace) -> int:
    """Run the command: 0; 1 if some lines could not be drawn; 130 after Ctrl-C.

    Raises:
        ValueError, OSError: a user's mistake, or a folder that cannot be written any more.
    """
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(joined_processes(args.device))
        folder = BatchFolder(Path(args.output_dir))
        asked: Any = None
        if processes.is_main:
            for_classes = draws_classes(args)
            options = generation_options(args, for_classes)
            file = Path(args.prompts_file)
            found = read_jobs(file, args.seed, args.num_samples, for_classes)
            prepare_output_folder(folder.path)
            stack.enter_context(folder.locked())
            for line in found.bad:
                reason = " ".join(line.reason.split())
                print(f"{args.prompts_file}, line {line.line}: {reason}", file=sys.stderr)
            asked = options, found
        options, found = processes.from_main(asked)
        # A launcher ends the others when one process fails; let the main process speak for all.
        code = FAILED if found.bad and processes.is_main else 0
        if not found.jobs:
            return code
        if processes.device is not None:
            args.device = str(processes.device)
        say = speaker(args.quiet or not processes.is_main)
        pipeline = load_pipeline(args, say)
        prompts = _conditions(pipeline, found, options)
        run = Run(args, options, prompts, folder.path, pipeline, say)
        say_what_is_unknown(args, prompts, say)
        try:
            BatchRun(run, folder, found, processes).draw()
        except KeyboardInterrupt:
            run.say("interrupted; the same command goes on")
            return INTERRUPTED
    return code


def _conditions(pipeline: Any, found: JobList, options: Any) -> list[Any]:
    """What is drawn: prompts, or classes that the model has; ValueError if it lacks one."""
    prompts = list(dict.fromkeys(job.prompt for job in found.jobs))
    if pipeline.draws == "prompts":
        return prompts
    classes = [class_index(prompt) for prompt in prompts]
    plan_classes(classes, pipeline.model.num_classes, options)
    return classes


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
        self.is_main = processes.is_main
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
        begun: Any = self._begin() if self.is_main else None
        todo, start = self.processes.from_main(begun)
        self.folder.require()
        try:
            self._draw_share(todo)
            self.processes.wait()
        finally:
            if self.is_main:
                rows = self.folder.write_rows()
        if self.is_main:
            self._require_all(rows)
            if self.calibrating:
                self._finish_calibration(start)
            self.folder.close_records()
            self._report(todo, rows)

    # --- what is missing ----------------------------------------------------------------------

    def _begin(self) -> tuple[list[Task], Any]:
        """What to draw, and the table that a calibration goes on from."""
        report = self.folder.path / REPORT_FILE
        if os.path.lexists(report):
            regular_size(report)  # what cannot be replaced in the end is told now
        self.settings = self._settings()
        self.folder.require_settings(self.settings)
        self.rows_before = rows = self.folder.write_rows()
        if not self.calibrating:  # its records are rows and nothing else
            self.folder.close_records()
        before = self.run.pipeline.model.similarity
        start = tables_to_dict(before) if self.calibrating and before.images else None
        start = self.folder.open_records(start)
        keeps = self.keep_images and not self.calibrating
        jobs = self.found.jobs
        left = self.folder.unfinished(jobs, rows, keeps)
        self.lost = {job.file: left.lost[job.index] for job in jobs if job.index in left.lost}
        size = self.run.options.batch_size
        tasks = plan_tasks(jobs, size, left.undrawn, left.lost.keys(), rows)
        self._say_what_is_left(len(jobs) - len(left.undrawn) - len(left.lost))
        return tasks if keeps else without_company(tasks), start

    def _say_what_is_left(self, finished: int) -> None:
        if finished:
            self.run.say(f"{finished} of {len(self.found.jobs)} images are finished already")
        if self.lost:
            shown = [f"{file} ({fault})" for file, fault in self.lost.items()][:_MAX_NAMED]
            more = ", ..." if len(self.lost) > len(shown) else ""
            self.run.say(f"{len(self.lost)} are drawn again: {', '.join(shown)}{more}")

    def _settings(self) -> dict[str, Any]:
        """What decides how images look, beside prompt, seed and preset."""
        run, model = self.run, self.run.pipeline.model
        options = run.options.to_dict()
        for name in ("seed", "max_token_length"):
            options.pop(name, None)  # in the rows; can be nothing else
        used = getattr(run.options, "use_llm_system_prompt", False)
        instruction = run.pipeline.system_prompt if used else ""
        uses_table = self.similarity.origin != "none" and not self.calibrating
        return {
            **options,
            "weights": model.weight_fingerprint(),
            "text_model": _weights_digest(run.pipeline.text_model),
            "autoencoder": _weights_digest(model.vae_proxy[0]),
            "system_prompt": _digest(instruction),
            "cache_config": model.cache_config.to_dict(),
            "use_cache": model.use_cache,
            "similarity": _digest(tables_to_dict(model.similarity)) if uses_table else None,
            "calibration": self.calibrating,
            "calibration_file": str(self.similarity.path) if self.calibrating else None,
            "device": run.pipeline.device.type,
            "dtype": str(run.pipeline.dtype).removeprefix("torch."),
            "engine": run.pipeline.use_engine,
            "compile": run.pipeline.compile,
            "tiled_decode": run.pipeline.tiled_decode,
        }

    # --- drawing ------------------------------------------------------------------------------

    def _draw_share(self, todo: Sequence[Task]) -> None:
        total = sum(len(task.kept) for task in todo)
        before = self.folder.count_recorded() if self.is_main else 0
        hidden = self.run.args.quiet or not self.is_main
        with progress_bar(total, "image", hidden, bar_format=_BAR) as bar:
            for task in self.processes.split(todo):
                for results, tables in self._drawn(task):
                    self._keep(results, task, tables)
                    if self.is_main:  # the bar shows what all processes have finished
                        bar.update(self.folder.count_recorded() - before - bar.n)

    def _drawn(self, task: Task):
        """Results, and when calibrating what they measured, of each piece of a batch."""
        for results in self.drawer.draw(task.jobs):
            measured = self.run.pipeline.model.similarity if self.calibrating else None
            yield results, measured and tables_to_dict(measured)

    def _measure_anew(self) -> None:
        """A generation may be measured and fail when it is decoded; it is drawn again then."""
        if self.calibrating:
            self.run.pipeline.model.clear_similarity_data()

    def _keep(self, results: list[ImageResult], task: Task, tables: Any) -> None:
        jobs = {job.index: job for job in task.jobs}
        batch = [result.index for result in results]
        kept = [result for result in results if result.index in task.kept]
        self.folder.require()
        files = [save_result(result, self.run) if self.keep_images else None for result in kept]
        rows = [
            self._row(result, jobs[result.index], batch, file)
            for result, file in zip(kept, files, strict=True)
        ]
        if rows:
            self.folder.add_record(Record(rows, tables))

    def _row(self, result: ImageResult, job: Job, batch: list[int], file: Path | None) -> Row:
        calls = [site for stage in result.stages.values() for site in stage.values()]
        return {
            "index": job.index,
            "line": job.line,
            "prompt": job.prompt,
            "seed": job.seed,
            "cache_preset": job.cache_preset,
            "file": None if file is None else file.name,
            "bytes": None if file is None else file.stat().st_size,
            "sha256": None if file is None else file_sha256(file),
            "batch_size": result.batch_size,
            "batch": batch,
            "seconds": result.seconds,
            "modules": {kind: sum(s[kind] for s in calls) for kind in ("computed", "reused")},
        }

    # --- the end ------------------------------------------------------------------------------

    def _require_all(self, rows: Mapping[int, Row]) -> None:
        """Refuse to call a run finished whose records somebody has taken away."""
        gone = sum(job.index not in rows for job in self.found.jobs)
        if gone:
            raise OSError(
                f"{self.folder.path}: the records of {gone} images have vanished; "
                "the same command draws them again"
            )

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

    def _report(self, todo: Sequence[Task], rows: Mapping[int, Row]) -> None:
        seconds = time.perf_counter() - self.started
        drawn = sum(len(task.kept) for task in todo)
        changed = [row["file"] for row in rows.values() if self._came_out_otherwise(row)]
        write_json(
            self.folder.path / REPORT_FILE,
            {
                "settings": self.settings,
                "similarity": similarity_entry(self.similarity),
                "environment": environment(self.run.pipeline),
                "processes": self.processes.count,
                "batch_size": self.drawer.batch_size,
                "images": len(rows),
                "drawn_now": drawn,
                "lost": self.lost,
                "came_out_otherwise": changed,
                "seconds": seconds,
                "bad_lines": [bad._asdict() for bad in self.found.bad],
            },
            durable=True,
        )
        rate = f", {drawn / seconds:.3g} images per second" if drawn else ""
        self.run.say(f"{drawn} images drawn in {seconds:.1f} s{rate}; {len(rows)} in total")
        if changed:
            self.run.say(f"{len(changed)} lost images came out otherwise, see {REPORT_FILE}")
        if self.found.bad:
            self.run.say(f"{len(self.found.bad)} lines could not be drawn, see {REPORT_FILE}")

    def _came_out_otherwise(self, row: Row) -> bool:
        before = self.rows_before.get(row["index"], row)["sha256"]
        return None not in (before, row["sha256"]) and before != row["sha256"]


def _weights_digest(module: nn.Module | None) -> str | None:
    """Identifies weights by the first values of each, whatever device they are on."""
    if module is None:
        return None
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        head = tensor.detach().flatten()[:_DIGEST_VALUES].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {head.tolist()}".encode())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode("utf-8")).hexdigest()
