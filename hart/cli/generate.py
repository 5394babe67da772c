"""``hart generate``: load a checkpoint, draw the prompts, save images and a report."""

from __future__ import annotations

import argparse
import contextlib

from hart.cli.interrupts import INTERRUPTED
from hart.cli.loading import set_up
from hart.cli.measure import run_benchmark_command, run_compare_command
from hart.cli.output import RESULTS_FILE, keep_earlier, save_numbered
from hart.cli.report import (
    image_entry,
    report_head,
    summarise,
    summary_lines,
    system_prompt_entry,
)
from hart.cli.run import Run
from hart.cli.similarity import (
    SimilaritySource,
    keep_calibration,
    prepare_similarity,
    say_calibration,
)
from hart.utils.files import write_json


def run_generate(args: argparse.Namespace) -> int:
    """Draw and save images, or measure if the arguments ask for that; the exit code.

    After Ctrl-C it is 130, and what is finished is kept.

    Raises:
        ValueError, OSError: a user's mistake; most are found before the model is loaded.
    """
    if args.compare_configs is not None:
        return run_compare_command(args)
    if args.benchmark:
        return run_benchmark_command(args)
    run = set_up(args)
    similarity = prepare_similarity(run)
    entries: list[dict] = []
    complete = False
    try:
        with contextlib.suppress(KeyboardInterrupt):
            _draw(run, entries, similarity)
            complete = True
    finally:
        report = {
            **report_head(run, similarity),
            "system_prompt": system_prompt_entry(run),
            "complete": complete,
            "summary": summarise(run.pipeline, entries),
            "images": entries,
        }
        keep_earlier(run.folder, RESULTS_FILE)
        write_json(run.folder / RESULTS_FILE, report, durable=True)
    if not complete:
        run.say(f"interrupted after {len(entries)} images")
    if args.calibration:
        say_calibration(run, similarity)
    saved = f"{len(entries)} images and " if args.save_images else ""
    run.say(f"{saved}{RESULTS_FILE} in {run.folder}")
    for line in summary_lines(run.pipeline, report["summary"]):
        run.say(line)
    return 0 if complete else INTERRUPTED


def _draw(run: Run, entries: list[dict], similarity: SimilaritySource) -> None:
    """Draw and save every image and append its entry; keep a calibration after every batch."""
    schedule = run.pipeline.model.schedule
    for batch in run.pipeline.stream(run.prompts, quiet=run.args.quiet, **run.options.to_dict()):
        if run.args.calibration:
            keep_calibration(run, similarity)
        for result in batch:
            file = save_numbered(result, run) if run.args.save_images else None
            entries.append(image_entry(result, file, schedule))
