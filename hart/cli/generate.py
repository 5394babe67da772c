"""``hart generate``: load a checkpoint, draw the prompts, save images and a report."""

from __future__ import annotations

import argparse

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
    """Run the command: draw, or measure if the arguments ask for that; the exit code.

    Raises:
        ValueError, OSError: a user's mistake; most are found before the model is loaded.
    """
    if args.compare_configs is not None:
        return run_compare_command(args)
    if args.benchmark:
        return run_benchmark_command(args)
    return draw_prompts(args)


def draw_prompts(args: argparse.Namespace) -> int:
    """Draw and save images; 0, or 130 after Ctrl-C, which keeps the finished ones.

    Raises:
        ValueError, OSError: as :func:`run_generate`.
    """
    run = set_up(args)
    similarity = prepare_similarity(run)
    entries: list[dict] = []
    complete = False
    try:
        complete = draw(run, entries, similarity)
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


def draw(run: Run, entries: list[dict], similarity: SimilaritySource) -> bool:
    """Draw every image, save it and append its entry; False if Ctrl-C ended it early.

    A calibration is saved after every batch.
    """
    schedule = run.pipeline.model.schedule
    stream = run.pipeline.stream(run.prompts, quiet=run.args.quiet, **run.options.to_dict())
    try:
        for batch in stream:
            if run.args.calibration:
                keep_calibration(run, similarity)
            for result in batch:
                file = save_numbered(result, run) if run.args.save_images else None
                entries.append(image_entry(result, file, schedule))
    except KeyboardInterrupt:
        return False
    return True
