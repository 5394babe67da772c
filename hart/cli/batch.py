"""``hart batch``: draw a file of prompts, with several processes if there are, and resume."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from hart.batch.folder import BatchFolder
from hart.batch.jobs import BadLine, JobList, read_jobs
from hart.batch.processes import Processes, joined_processes
from hart.cli.arguments import generation_options
from hart.cli.batch_run import BatchRun
from hart.cli.loading import choose_execution, load_pipeline
from hart.cli.output import prepare_output_folder
from hart.cli.run import INTERRUPTED, Run

FAILED = 1


def run_batch(args: argparse.Namespace) -> int:
    """Run the command: 0; 1 if some lines could not be drawn; 130 after Ctrl-C.

    Raises:
        ValueError, OSError: a user's mistake, or a folder that cannot be written any more.
    """
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(joined_processes(args.device))
        folder, options, found = BatchFolder(Path(args.output_dir)), None, None
        if processes.is_main:
            options = generation_options(args)
            found = read_jobs(Path(args.prompts_file), args.seed, args.num_samples)
            prepare_output_folder(folder.path)
            stack.enter_context(folder.locked())
            _complain_about(args.prompts_file, found.bad)
        options, found = processes.from_main((options, found))
        # A launcher ends the others when one process fails; let the main process speak for all.
        code = FAILED if found.bad and processes.is_main else 0
        if not found.jobs:
            return code
        run = _load(args, options, found, processes)
        try:
            BatchRun(run, folder, found, processes).draw()
        except KeyboardInterrupt:
            run.say("interrupted; the same command goes on")
            return INTERRUPTED
    return code


def _complain_about(file: str, bad: list[BadLine]) -> None:
    for line in bad:
        print(f"{file}, line {line.line}: {' '.join(line.reason.split())}", file=sys.stderr)


def _load(args: argparse.Namespace, options, found: JobList, processes: Processes) -> Run:
    def say(text: str) -> None:
        if processes.is_main and not args.quiet:
            print(text, flush=True)

    if processes.device is not None:
        args.device = str(processes.device)
    pipeline = load_pipeline(args, say)
    choose_execution(pipeline, args)
    prompts = list(dict.fromkeys(job.prompt for job in found.jobs))
    return Run(args, options, prompts, Path(args.output_dir), pipeline, say)
