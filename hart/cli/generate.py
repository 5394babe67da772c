"""``hart generate``: load a checkpoint, draw the prompts, save images and a report."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from transformers.utils import logging as transformers_logging

from hart.cli.arguments import generation_options
from hart.cli.output import RESULTS_FILE, prepare_output_folder, save_result
from hart.cli.prompts import read_text, resolve_prompts
from hart.cli.report import image_entry, run_report, summary_lines
from hart.cli.run import Run
from hart.cli.similarity import (
    SimilaritySource,
    keep_calibration,
    prepare_similarity,
    say_calibration,
)
from hart.modules.models.transformer.cache_options import (
    resolve_cache_config,
    resolve_use_cache,
)
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.pipeline import HARTPipeline, locate_checkpoint
from hart.pipeline.options import plan_images
from hart.utils.files import write_json

INTERRUPTED = 130


def run_generate(args: argparse.Namespace) -> int:
    """Run the command; 0, or 130 after Ctrl-C, which keeps the finished images.

    Raises:
        ValueError, OSError: a user's mistake; most are found before the model is loaded.
    """
    run = set_up(args)
    similarity = prepare_similarity(run)
    entries: list[dict] = []
    complete = False
    try:
        complete = draw(run, entries, similarity)
    finally:
        report = run_report(run, entries, similarity, complete)
        write_json(run.folder / RESULTS_FILE, report)
    if not complete:
        run.say(f"interrupted after {len(entries)} images")
    if args.calibration:
        say_calibration(run, similarity)
    saved = f"{len(entries)} images and " if args.save_images else ""
    run.say(f"{saved}{RESULTS_FILE} in {run.folder}")
    for line in summary_lines(run.pipeline, report["summary"]):
        run.say(line)
    return 0 if complete else INTERRUPTED


def set_up(args: argparse.Namespace) -> Run:
    """Check everything that can be checked cheaply, then load the checkpoint."""

    def say(line: str) -> None:
        if not args.quiet:
            print(line, flush=True)

    options = generation_options(args)
    prompts = resolve_prompts(args)
    plan_images(prompts, options)  # refuses empty prompts
    folder = prepare_output_folder(Path(args.output_dir))
    return Run(args, options, prompts, folder, load_pipeline(args, say), say)


def load_pipeline(args: argparse.Namespace, say: Callable[[str], None]) -> HARTPipeline:
    """The pipeline that the arguments describe, with their cache options."""
    transformers_logging.disable_progress_bar()
    model_path = args.model_path
    if model_path is None:
        from hart.demo import DEMO_CHECKPOINT

        model_path = DEMO_CHECKPOINT
        say("no --model_path: drawing with the bundled demo checkpoint")
    folders = locate_checkpoint(model_path, args.text_model_path, args.tokenizer_path)
    config = HARTForT2IConfig.from_pretrained(folders.llm)
    cache = resolve_cache_config(args, config, config.patch_nums)
    system_prompt = None
    if args.system_prompt_file is not None:
        system_prompt = read_text(Path(args.system_prompt_file))
    pipeline = HARTPipeline.from_pretrained(
        model_path,
        args.text_model_path,
        args.tokenizer_path,
        device=args.device,
        dtype=args.dtype,
        cache=cache,
        use_ema=args.use_ema,
        system_prompt=system_prompt,
    )
    pipeline.model.use_cache = resolve_use_cache(args, config)
    pipeline.model.calibration = bool(args.calibration)
    return pipeline


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
                file = save_result(result, run) if run.args.save_images else None
                entries.append(image_entry(result, file, schedule))
    except KeyboardInterrupt:
        return False
    return True
