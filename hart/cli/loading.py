"""From a command line to a loaded pipeline, with what is cheap to check checked first."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from hart import demo
from hart.cli.arguments import check_combination, generation_options
from hart.cli.output import prepare_output_folder
from hart.cli.prompts import read_prompts_file, resolve_prompts, say_what_is_unknown
from hart.cli.run import Run
from hart.evaluation.random_shapes import RANDOM_SHAPES
from hart.evaluation.random_weights import assumed_similarity, random_config, random_pipeline
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.var_checkpoint import is_var_checkpoint
from hart.modules.networks.caching.cache_options import resolve_cache_config, resolve_use_cache
from hart.pipeline import HARTPipeline, VARPipeline, locate_checkpoint
from hart.pipeline.options import plan_classes, plan_images
from hart.utils.prompt_files import class_index
from hart.utils.text_files import read_text

NUM_DEFAULT_CLASSES = 4

# Flags that one kind of checkpoint does not understand.
ONLY_HART = (
    *("--prompts", "--demo_prompts", "--max_token_length"),
    *("--system_prompt_file", "--text_model_path", "--tokenizer_path", "--use_ema", "--clip_path"),
)
ONLY_VAR = ("--classes", "--top_k")


def set_up(args: argparse.Namespace) -> Run:
    """Check everything that can be checked cheaply, then load the checkpoint.

    Raises:
        ValueError, OSError: a user's mistake.
    """
    say, folder = speaker(args.quiet), Path(args.output_dir)
    check_combination(args)
    for_classes = draws_classes(args)
    options = generation_options(args, for_classes)
    if not for_classes:
        prompts: list[Any] = resolve_prompts(args)
        plan_images(prompts, options)  # refuses empty prompts
    prepare_output_folder(folder)
    pipeline = load_pipeline(args, say)
    if for_classes:
        prompts = _classes(args, pipeline.model.num_classes)
        plan_classes(prompts, pipeline.model.num_classes, options)  # refuses unknown classes
    else:
        say_what_is_unknown(args, prompts, say)
    return Run(args, options, prompts, folder, pipeline, say)


def speaker(quiet: bool) -> Callable[[str], None]:
    """What prints a line for the user, unless the run is quiet."""
    return (lambda line: None) if quiet else (lambda line: print(line, flush=True))


def draws_classes(args: argparse.Namespace) -> bool:
    """Whether the checkpoint of a command line is VAR's.

    Raises:
        ValueError: a flag that its kind of checkpoint does not understand is given.
    """
    shape = getattr(args, "random_weights", None)
    is_var = args.model_path is not None and is_var_checkpoint(args.model_path)
    if shape is not None:
        is_var = RANDOM_SHAPES[shape].draws == "classes"
    name = args.model_path or shape or "this one"
    for flag in ONLY_HART if is_var else ONLY_VAR:
        if getattr(args, flag.removeprefix("--"), None) is None:
            continue
        if is_var:
            raise ValueError(
                f"{flag}: {name} is a VAR checkpoint, which draws --classes and knows "
                "neither text nor averaged weights"
            )
        raise ValueError(
            f"{flag}: only VAR checkpoints have classes and top_k, and "
            f"{name} is none; HART draws --prompts"
        )
    return is_var


def _classes(args: argparse.Namespace, num_classes: int) -> list[int]:
    """The classes asked for, else four drawn by the seed."""
    if args.prompts_file is not None:
        return [class_index(prompt) for prompt in read_prompts_file(Path(args.prompts_file))]
    if args.classes is not None:
        return args.classes
    count = min(NUM_DEFAULT_CLASSES, num_classes)
    return random.Random(args.seed).sample(range(num_classes), count)


def load_pipeline(args: argparse.Namespace, say: Callable[[str], None]) -> HARTPipeline:
    """The pipeline that the arguments of any command describe, ready to draw as they say.

    Raises:
        ValueError, OSError: the checkpoint, or what the arguments say about it, cannot be used.
    """
    check_combination(args)
    pipeline = read_pipeline(args, say)
    if args.plan is not None:
        pipeline.set_plan(args.plan)
    elif args.quality is not None:
        pipeline.set_quality(args.quality)
    pipeline.use_engine, pipeline.compile = args.engine, args.compile
    pipeline.tiled_decode = args.tiled_decode
    assumed = getattr(args, "assume_similarity", None)
    if assumed is not None:
        pipeline.model.similarity = assumed_similarity(pipeline.model, assumed)
        pipeline.similarity_path = None
    return pipeline


def read_pipeline(args: argparse.Namespace, say: Callable[[str], None]) -> HARTPipeline:
    """The checkpoint, or the random weights, with the cache options of the arguments."""
    pipeline: Any
    shape = getattr(args, "random_weights", None)
    if shape is not None:
        config: PretrainedConfig = random_config(shape)
        cache = resolve_cache_config(args, config, config.patch_nums)
        pipeline = random_pipeline(shape, args.seed, args.device, args.dtype, cache)
    elif draws_classes(args) and hasattr(args, "prompts_file"):
        pipeline = VARPipeline.from_pretrained(args.model_path, args.device, args.dtype)
        config = pipeline.model.config
        pipeline.model.set_cache_config(resolve_cache_config(args, config, config.patch_nums))
    else:
        pipeline, config = _read_hart(args, say)
    pipeline.model.use_cache = resolve_use_cache(args, config)
    pipeline.model.calibration = bool(getattr(args, "calibration", False))
    return pipeline


def _read_hart(
    args: argparse.Namespace, say: Callable[[str], None]
) -> tuple[HARTPipeline, HARTForT2IConfig]:
    transformers_logging.disable_progress_bar()
    model_path = args.model_path
    if model_path is None:
        model_path = demo.DEMO_CHECKPOINT
        say("no --model_path: drawing with the bundled demo checkpoint")
    folders = locate_checkpoint(model_path, args.text_model_path, args.tokenizer_path)
    config = HARTForT2IConfig.from_pretrained(folders.llm)
    cache = resolve_cache_config(args, config, config.patch_nums)
    file = args.system_prompt_file
    pipeline = HARTPipeline.from_pretrained(
        model_path,
        args.text_model_path,
        args.tokenizer_path,
        device=args.device,
        dtype=args.dtype,
        cache=cache,
        use_ema=args.use_ema,
        system_prompt=None if file is None else read_text(Path(file)),
    )
    return pipeline, config
