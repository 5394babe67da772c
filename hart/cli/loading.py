"""From a command line to a loaded model, with everything checked first that is cheap to check."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from transformers.utils import logging as transformers_logging

from hart.cli.arguments import generation_options
from hart.cli.conditions import draws_classes, resolve_conditions
from hart.cli.evaluation_arguments import check_evaluation_arguments
from hart.cli.output import prepare_output_folder
from hart.cli.run import Run
from hart.evaluation.random_weights import assumed_similarity, random_config, random_pipeline
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.networks.caching.cache_options import (
    resolve_cache_config,
    resolve_use_cache,
)
from hart.pipeline import HARTPipeline, VARPipeline, locate_checkpoint
from hart.pipeline.options import plan_classes, plan_images
from hart.utils.text_files import read_text


def set_up(args: argparse.Namespace) -> Run:
    """Check everything that can be checked cheaply, then load the checkpoint."""

    def say(line: str) -> None:
        if not args.quiet:
            print(line, flush=True)

    check_evaluation_arguments(args)
    for_classes = draws_classes(args)
    options = generation_options(args, for_classes)
    if for_classes:
        folder = prepare_output_folder(Path(args.output_dir))
        pipeline = load_var_pipeline(args)
        prompts = resolve_conditions(args, pipeline.model.num_classes)
        plan_classes(prompts, pipeline.model.num_classes, options)  # refuses unknown classes
    else:
        prompts = resolve_conditions(args)
        plan_images(prompts, options)  # refuses empty prompts
        folder = prepare_output_folder(Path(args.output_dir))
        pipeline = load_pipeline(args, say)
    choose_execution(pipeline, args)
    if args.assume_similarity is not None:
        pipeline.model.similarity = assumed_similarity(pipeline.model, args.assume_similarity)
        pipeline.similarity_path = None
    return Run(args, options, prompts, folder, pipeline, say)


def choose_execution(pipeline: HARTPipeline, args: argparse.Namespace) -> None:
    """Let the pipeline compute as the arguments say."""
    pipeline.use_engine, pipeline.compile = args.engine, args.compile
    pipeline.tiled_decode = args.tiled_decode


def load_pipeline(args: argparse.Namespace, say: Callable[[str], None]) -> HARTPipeline:
    """The pipeline that the arguments describe, with their cache options."""
    if args.random_weights is not None:
        return build_random_pipeline(args)
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


def load_var_pipeline(args: argparse.Namespace) -> VARPipeline:
    """The pipeline of a VAR checkpoint, with the cache options of the arguments."""
    pipeline = VARPipeline.from_pretrained(args.model_path, device=args.device, dtype=args.dtype)
    model = pipeline.model
    model.set_cache_config(resolve_cache_config(args, model.config, model.patch_nums))
    model.use_cache = resolve_use_cache(args, model.config)
    model.calibration = bool(args.calibration)
    return pipeline


def build_random_pipeline(args: argparse.Namespace) -> HARTPipeline:
    """Random weights of the shape that the arguments name, with their cache options."""
    config = random_config(args.random_weights)
    cache = resolve_cache_config(args, config, config.patch_nums)
    pipeline = random_pipeline(args.random_weights, args.seed, args.device, args.dtype, cache)
    pipeline.model.use_cache = resolve_use_cache(args, config)
    return pipeline
