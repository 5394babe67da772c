"""The arguments of ``hart generate``. Sampling defaults are those of HART's own scripts."""

from __future__ import annotations

import argparse

from hart.cli.evaluation_arguments import add_evaluation_arguments
from hart.cli.parser import integer_from, on_off
from hart.modules.networks.caching.cache_options import add_cache_arguments
from hart.pipeline.options import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_SEED,
    GenerationOptions,
    VARGenerationOptions,
)

DTYPES = ("auto", "fast", "float32", "bfloat16", "float16")


def add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add everything that ``hart generate`` understands."""
    add_model_arguments(parser.add_argument_group("model"))
    _add_prompt_arguments(parser.add_argument_group("prompts"))
    add_sampling_arguments(parser.add_argument_group("sampling"))
    add_output_arguments(
        parser.add_argument_group("output"),
        "where files go; nothing there is overwritten: pictures are numbered on, and an earlier "
        "run's report gets a number, generation_results_1.json and so on (default: %(default)s)",
    )
    add_evaluation_arguments(parser)
    add_cache_arguments(parser)


def add_model_arguments(group: argparse._ArgumentGroup) -> None:
    """Add what chooses the checkpoint and where it runs."""
    group.add_argument(
        "--model_path",
        help="checkpoint folder, its llm folder, a name on the Hugging Face hub, or VAR's .pth "
        "file or the folder of it (default: the bundled demo checkpoint)",
    )
    group.add_argument(
        "--text_model_path", help="text encoder (default: text_model in the checkpoint)"
    )
    group.add_argument(
        "--tokenizer_path",
        help="text tokenizer (default: the text encoder's); "
        "an image autoencoder's folder is taken as that",
    )
    group.add_argument(
        "--device", help="cpu, cuda, cuda:1, mps, ... (default: the best one there is)"
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="auto: float16 on CUDA, else float32; fast: bfloat16 too on a CPU quick at it",
    )
    on_off(group, "engine", True, "execute with the engine: faster, the same up to rounding")
    group.add_argument(
        "--compile", action="store_true", help="torch.compile parts of the engine (slow start)"
    )
    group.add_argument(
        "--tiled_decode",
        action="store_true",
        help="decode in overlapping tiles: less memory, slightly other images",
    )
    on_off(group, "use_ema", None, "averaged weights (default: if the checkpoint has them)")


def _add_prompt_arguments(group: argparse._ArgumentGroup) -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument("--prompts", nargs="+", metavar="PROMPT", help="what to draw")
    source.add_argument(
        "--prompts_file",
        help="text with one prompt per line (empty lines and # comments are skipped), .jsonl of "
        "objects, .json of an array, or .csv or .tsv with a header",
    )
    source.add_argument(
        "--demo_prompts",
        type=integer_from(1),
        metavar="N",
        help="N captions of the demo's held-out scenes; --compare_configs then tells how many "
        "attributes the images show",
    )
    source.add_argument(
        "--classes",
        nargs="+",
        type=integer_from(0),
        metavar="CLASS",
        help="class indices, for a VAR checkpoint (default: four drawn by the seed)",
    )
    add_text_arguments(group)


def add_text_arguments(group: argparse._ArgumentGroup) -> None:
    """Add what decides how prompts are encoded."""
    group.add_argument(
        "--max_token_length",
        type=integer_from(1),
        help="text positions (default, and the only value it accepts: what the model has)",
    )
    on_off(
        group,
        "use_llm_system_prompt",
        GenerationOptions.use_llm_system_prompt,
        "put an instruction before every prompt",
    )
    add_system_prompt_file(group)


def add_system_prompt_file(group: argparse._ArgumentGroup) -> None:
    """Add ``--system_prompt_file``."""
    group.add_argument(
        "--system_prompt_file",
        help="the instruction, byte for byte (default: the checkpoint's system_prompt.txt, "
        "else the library's own)",
    )


def add_sampling_arguments(group: argparse._ArgumentGroup) -> None:
    """Add what decides how images are drawn."""
    group.add_argument(
        "--num_samples", type=integer_from(1), default=1, help="images per prompt (default 1)"
    )
    group.add_argument(
        "--batch_size",
        type=integer_from(1),
        default=DEFAULT_BATCH_SIZE,
        help="images generated at the same time; moves their rounding and, with an adaptive "
        "threshold, what they reuse (default %(default)s)",
    )
    group.add_argument(
        "--seed",
        type=integer_from(0),
        default=DEFAULT_SEED,
        help="image i of the run uses seed + i (default %(default)s)",
    )
    group.add_argument(
        "--cfg_scale",
        "--cfg",
        type=float,
        help=f"guidance scale ({_defaults('cfg_scale')})",
    )
    group.add_argument(
        "--top_p", type=float, help=f"nucleus mass, 0 means off ({_defaults('top_p')})"
    )
    group.add_argument(
        "--top_k",
        type=integer_from(0),
        help="candidates per token, 0 means all; VAR only, HART fixes them "
        f"(default {VARGenerationOptions.top_k})",
    )
    on_off(
        group,
        "more_smooth",
        None,
        f"feed back soft token mixtures ({_defaults('more_smooth')})",
    )


def _defaults(field: str) -> str:
    return (
        f"default {getattr(GenerationOptions, field)}, "
        f"for VAR {getattr(VARGenerationOptions, field)}"
    )


def add_output_arguments(
    group: argparse._ArgumentGroup, folder: str = "default: %(default)s"
) -> None:
    """Add where files and messages go."""
    group.add_argument("--output_dir", default="samples", help=folder)
    on_off(group, "save_images", True, "write PNG files")
    group.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    group.add_argument("--debug", action="store_true", help="show where an error came from")


def generation_options(
    args: argparse.Namespace, for_classes: bool = False
) -> GenerationOptions | VARGenerationOptions:
    """The sampling options of a command line.

    Args:
        for_classes: whether the checkpoint is VAR's.

    Raises:
        ValueError: a value is not allowed.
    """
    given = {
        name: getattr(args, name)
        for name in ("cfg_scale", "top_p", "more_smooth", "top_k")
        if getattr(args, name) is not None
    }
    common = {
        "num_images_per_prompt": args.num_samples,
        "seed": args.seed,
        "batch_size": args.batch_size,
        **given,
    }
    if for_classes:
        return VARGenerationOptions(**common)
    return GenerationOptions(
        **common,
        max_token_length=args.max_token_length,
        use_llm_system_prompt=args.use_llm_system_prompt,
    )
