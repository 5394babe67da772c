"""The arguments of ``generate``, ``batch`` and ``web``, and which of them exclude each other.

Those that are fields of a dataclass of options are written there, see :mod:`hart.utils.options`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from hart.cli.naming import EXAMPLE, name_template
from hart.evaluation import DEFAULT_ROUNDS, DEFAULT_RUNS, DEFAULT_WARMUP
from hart.evaluation.random_shapes import RANDOM_SHAPES
from hart.modules.networks.caching.cache_options import OPTION_NAMES, add_cache_arguments
from hart.modules.networks.caching.presets import QUALITY_LEVELS
from hart.pipeline.options import DEFAULT_BATCH_SIZE, GenerationOptions, VARGenerationOptions
from hart.server import (
    API_KEY_VARIABLE,
    DEFAULT_GRACE_S,
    DEFAULT_MAX_IMAGES,
    DEFAULT_MAX_PROMPT,
    DEFAULT_SERVER_PORT,
    DEFAULT_SERVER_WAITING,
)
from hart.utils.names import SHORT_DTYPES
from hart.utils.options import Either, add_options, integer_from, number_within, options_of
from hart.web import DEFAULT_MAX_WAITING, DEFAULT_PORT, LOOPBACK
from hart.web.results import KEEP

DTYPES = ("auto", "fast", "float32", "bfloat16", "float16")

MODEL_FLAGS = (
    *("--model_path", "--text_model_path", "--tokenizer_path", "--use_ema"),
    "--system_prompt_file",
)
CACHE_FLAGS = tuple(
    "--" + name.replace("_", "-")
    for name in ("cache_preset", *OPTION_NAMES.values(), "use_cache", "threshold")
)

PLAN_FLAGS = {
    "--plan": "a plan says what is done, module by module",
    "--quality": "a level is a plan",
}
"""What is drawn by a plan, and why no other flag says so too."""

# Flag -> the flags that mean nothing beside it, and why.
EXCLUDES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("--random-weights", MODEL_FLAGS, "random weights are not those of a checkpoint"),
    ("--assume-similarity", ("--sim-path", "--calibration"), "there can be only one table"),
    ("--benchmark", ("--calibration",), "calibrate first, then measure"),
    ("--compare_configs", ("--calibration",), "calibrate first, then measure"),
    ("--compare_configs", ("--name_template",), "its pictures are those of the comparison"),
    *(
        (
            flag,
            (
                *CACHE_FLAGS,
                "--calibration",
                "--sim-path",
                "--assume-similarity",
                "--random-weights",
            ),
            reason,
        )
        for flag, reason in PLAN_FLAGS.items()
    ),
    ("--plan", ("--quality",), "a level is a plan"),
    (
        "--compare_configs",
        (*CACHE_FLAGS, *PLAN_FLAGS),
        "name presets, or JSON files of CacheConfig fields, after --compare_configs",
    ),
)
# Flag -> the flags of which it needs one.
NEEDS = {
    "--random-weights": ("--benchmark", "--compare_configs"),
    "--benchmark_runs": ("--benchmark", "--compare_configs"),
    "--lpips_weights": ("--compare_configs",),
    "--fid_weights": ("--compare_configs",),
    "--clip_path": ("--compare_configs",),
}

PROMPT_FORMATS = (
    "text with one prompt per line (empty lines and # comments are skipped), .jsonl of objects, "
    ".json of an array, or .csv or .tsv with a header; for VAR a prompt is the number of a class"
)
KEPT = (
    "where files go; nothing there is overwritten: pictures are numbered on, and an earlier run's "
    "report gets a number, generation_results_1.json and so on (default: %(default)s)"
)


def add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add everything that ``hart generate`` understands."""
    add_model_arguments(parser.add_argument_group("model"))
    prompts = parser.add_argument_group("prompts")
    _add_prompt_arguments(prompts)
    add_text_arguments(prompts)
    add_sampling_arguments(parser.add_argument_group("sampling"))
    output = parser.add_argument_group("output")
    _add_output_arguments(output, KEPT)
    text = f"names of the pictures, such as {EXAMPLE}, made of {{index}}, {{prompt}} and {{seed}}; "
    text += "a name that is taken gets a number (default: the next number)"
    output.add_argument("--name_template", type=name_template, metavar="TEMPLATE", help=text)
    _add_measuring_arguments(parser.add_argument_group("measuring"))
    add_cache_arguments(parser)
    add_plan_arguments(parser)


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add everything that ``hart batch`` understands."""
    add_model_arguments(parser.add_argument_group("model"))
    prompts = parser.add_argument_group("prompts")
    text = f"{PROMPT_FORMATS}: prompt and, for a row if wanted, seed and cache_preset"
    prompts.add_argument("--prompts_file", required=True, metavar="FILE", help=text)
    add_text_arguments(prompts)
    add_sampling_arguments(parser.add_argument_group("sampling"))
    _add_output_arguments(parser.add_argument_group("output"), "default: %(default)s")
    add_cache_arguments(parser)
    add_plan_arguments(parser)


def add_web_arguments(parser: argparse.ArgumentParser) -> None:
    """Add everything that ``hart web`` understands."""
    model = parser.add_argument_group("model")
    add_model_arguments(model)
    _add_system_prompt_file(model)
    add = model.add_argument
    add(
        "--sim-path",
        metavar="FILE",
        help="similarity data (default: cache_similarity.json in the checkpoint)",
    )
    add_plan_arguments(parser)
    text = "a ShieldGemma-style model that refuses unsafe prompts (default: none does)"
    add("--shield_model_path", metavar="FOLDER", help=text)
    _add_page_arguments(parser.add_argument_group("page"))
    _add_access_arguments(parser.add_argument_group("access"))
    add_message_arguments(parser)


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add everything that ``hart serve`` understands."""
    model = parser.add_argument_group("model")
    add_model_arguments(model)
    _add_system_prompt_file(model)
    text = "what clients call it (default: the checkpoint's folder)"
    model.add_argument("--served_model_name", metavar="NAME", help=text)
    _add_server_arguments(parser.add_argument_group("server"))
    add_message_arguments(parser)
    add_cache_arguments(parser)
    add_plan_arguments(parser)


def add_model_arguments(group: argparse._ArgumentGroup) -> None:
    """Add what chooses the checkpoint and where it runs."""
    add = group.add_argument
    text = "checkpoint folder, its llm folder, a name on the Hugging Face hub, or VAR's .pth file "
    add(
        "--model_path",
        metavar="PATH",
        help=f"{text}or the folder of it (default: the bundled demo checkpoint)",
    )
    text = "text encoder (default: text_model in the checkpoint)"
    add("--text_model_path", metavar="PATH", help=text)
    text = "text tokenizer (default: the text encoder's); "
    text += "an image autoencoder's folder is taken as that"
    add("--tokenizer_path", metavar="PATH", help=text)
    text = "cpu, cuda, cuda:1, mps, ... (default: the best one there is)"
    add("--device", metavar="NAME", help=text)
    text = "auto: float16 on CUDA, else float32; fast: bfloat16 too on a CPU quick at it; fp32, "
    text += "bf16 and fp16 are short for the others"
    add("--dtype", type=long_dtype, choices=DTYPES, default="auto", help=text)
    _on_off(group, "engine", True, "execute with the engine: faster, the same up to rounding")
    text = "torch.compile parts of the engine (slow start)"
    add("--compile", action="store_true", help=text)
    text = "decode in overlapping tiles: less memory, slightly other images"
    add("--tiled_decode", action="store_true", help=text)
    _on_off(group, "use_ema", None, "averaged weights (default: if the checkpoint has them)")


def long_dtype(text: str) -> str:
    """A parser type: a number format by its long name."""
    return SHORT_DTYPES.get(text, text)


def _on_off(group: argparse._ArgumentGroup, name: str, default: bool | None, text: str) -> None:
    group.add_argument(f"--{name}", f"--no-{name}", action=Either, default=default, help=text)


def _add_prompt_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_mutually_exclusive_group().add_argument
    add("--prompts", "--prompt", nargs="+", metavar="PROMPT", help="what to draw")
    add("--prompts_file", metavar="FILE", help=PROMPT_FORMATS)
    text = "so many captions of the demo's held-out scenes; with --compare_configs it also tells "
    text += "how many attributes the images show"
    add("--demo_prompts", type=integer_from(1), metavar="NUMBER", help=text)
    text = "class indices, for a VAR checkpoint (default: four drawn by the seed)"
    add("--classes", nargs="+", type=integer_from(0), metavar="NUMBER", help=text)


def add_text_arguments(group: argparse._ArgumentGroup) -> None:
    """Add what decides how prompts are encoded."""
    hart, var = options_of(GenerationOptions), options_of(VARGenerationOptions)
    add_options(group, (each for name, each in hart.items() if name not in var))
    _add_system_prompt_file(group)


def _add_system_prompt_file(group: argparse._ArgumentGroup) -> None:
    text = "(default: the checkpoint's system_prompt.txt, else the library's own)"
    text = f"the instruction, byte for byte {text}"
    group.add_argument("--system_prompt_file", metavar="FILE", help=text)


def add_sampling_arguments(group: argparse._ArgumentGroup) -> None:
    """Add what decides how images are drawn. Where HART and VAR differ, no flag means neither."""
    hart = options_of(GenerationOptions)
    for name, each in options_of(VARGenerationOptions).items():
        if each == hart.get(name):
            add_options(group, [each])
        else:
            both = f"{hart[name].default}, for VAR " if name in hart else ""
            add_options(group, [each], unset=True, default=f"{both}{each.default}")


def _add_output_arguments(group: argparse._ArgumentGroup, folder: str) -> None:
    group.add_argument(
        "--output_dir", "--sample_folder_dir", default="samples", metavar="FOLDER", help=folder
    )
    text = "taken from HART's scripts: every picture is a file of its own, as always"
    group.add_argument("--store_seperately", action="store_true", help=text)
    _on_off(group, "save_images", True, "write PNG files")
    add_message_arguments(group)


def add_message_arguments(group: argparse._ActionsContainer, quiet: bool = True) -> None:
    """Add what decides what is printed; every command has ``--debug``."""
    if quiet:
        group.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    group.add_argument("--debug", action="store_true", help="show where an error came from")


def _add_measuring_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--benchmark", action="store_true", help="time repeated runs, part by part, and memory")
    text = "draw the same images with several cache configurations and compare speed, memory and "
    text += "quality with no-cache: presets, or JSON files of CacheConfig fields (default: presets)"
    add("--compare_configs", nargs="*", metavar="NAME", help=text)
    text = f"measured runs (default {DEFAULT_RUNS}; of each of --compare_configs {DEFAULT_ROUNDS})"
    add("--benchmark_runs", type=integer_from(1), metavar="NUMBER", help=text)
    text = "runs before them that are not measured (default %(default)s)"
    add(
        "--benchmark_warmup",
        type=integer_from(0),
        default=DEFAULT_WARMUP,
        metavar="NUMBER",
        help=text,
    )
    text = "measure random weights of these shapes instead of a checkpoint"
    add("--random-weights", choices=list(RANDOM_SHAPES), help=text)
    text = "take this similarity for every module and transition instead of a table"
    add("--assume-similarity", type=number_within(-1, 1), metavar="NUMBER", help=text)
    add("--lpips_weights", metavar="FILE", help='state dict of lpips.LPIPS(net="alex"): adds LPIPS')
    text = "torch-fidelity's Inception weights: adds FID against no-cache"
    add("--fid_weights", metavar="FILE", help=text)
    add("--clip_path", metavar="FOLDER", help="folder of a CLIP model: adds the CLIP score")


def _add_page_arguments(group: argparse._ArgumentGroup) -> None:
    """Add where the page is, and how much it draws and keeps."""
    add = group.add_argument
    text = "address to listen at (default %(default)s: this machine only; 0.0.0.0: everybody "
    text += "who can reach it, by a numeric address or this machine's name)"
    add("--host", default=LOOPBACK, metavar="ADDRESS", help=text)

    def number(flag: str, kind: Callable, default: float, text: str) -> None:
        add(
            flag, type=kind, default=default, metavar="NUMBER", help=f"{text} (default %(default)g)"
        )

    number("--port", integer_from(1), DEFAULT_PORT, "its port")
    text = "where results go; the page serves no other files (default: %(default)s)"
    add("--output_dir", default="web_samples", metavar="FOLDER", help=text)
    number("--max_images", integer_from(1), 8, "images of one request")
    text = "finished requests whose files stay; older ones are removed"
    number("--keep_requests", integer_from(1), KEEP.requests, text)
    text = "hours after which a finished request's files are removed"
    number("--keep_hours", number_within(0.01, 1e6), KEEP.hours, text)
    text = "requests that may wait for the model"
    number("--max_waiting", integer_from(1), DEFAULT_MAX_WAITING, text)
    text = "without the tabs that change the similarity table, and the plan on offer, for everybody"
    add("--no-calibration", dest="visitors_calibrate", action="store_false", help=text)


def _add_server_arguments(group: argparse._ArgumentGroup) -> None:
    """Add where the server is, whom it answers, and how much it takes."""
    add, whole = group.add_argument, integer_from(1)
    text = "address to listen at (default %(default)s: this machine only; 0.0.0.0: everybody)"
    add("--host", default=LOOPBACK, help=text)
    add("--port", type=whole, default=DEFAULT_SERVER_PORT, help="default: %(default)s")
    text = (
        f"what clients have to send (default: the environment's {API_KEY_VARIABLE}, else nothing)"
    )
    add("--api-key", metavar="KEY", help=text)
    text = "a further host name to answer to at a loopback address without a key; may be repeated, "
    text += "'*' stands for all (default: localhost and loopback addresses)"
    add("--allowed_host", action="append", default=[], metavar="NAME", help=text)
    text = "images drawn at the same time, of one or several requests (default %(default)s)"
    add("--batch_size", type=whole, default=DEFAULT_BATCH_SIZE, help=text)
    text = "requests that may wait for the model (default %(default)s)"
    add("--max_waiting", type=whole, default=DEFAULT_SERVER_WAITING, help=text)
    text = "images of one request (default %(default)s)"
    add("--max_images", type=whole, default=DEFAULT_MAX_IMAGES, help=text)
    text = "characters of a prompt (default %(default)s)"
    add("--max_prompt", type=whole, default=DEFAULT_MAX_PROMPT, help=text)
    text = "seconds in which a server that is stopped finishes what it draws (default %(default)s)"
    add("--grace_s", type=integer_from(0), default=DEFAULT_GRACE_S, help=text)


def _add_access_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    text = "let in only who knows these (default: everybody)"
    add("--auth", metavar="USER:PASSWORD", help=text)
    text = "a further host name to answer to, as a proxy or the DNS has it, without port; may be "
    text += "repeated, '*' stands for all (default: localhost and loopback addresses; with --host "
    text += "also that, all numeric addresses and this machine's name)"
    add("--allowed_host", action="append", default=[], metavar="NAME", help=text)
    text = "path under which a proxy serves the page and which it takes off, such as /hart"
    add("--root_path", metavar="PATH", help=text)


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what chooses a plan in the place of a cache configuration."""
    group = parser.add_argument_group("plans")
    text = "draw as a plan says that hart tune has written"
    group.add_argument("--plan", metavar="FILE", help=text)
    text = "draw by the checkpoint's own plan of that name; lossless is without caching"
    group.add_argument("--quality", choices=list(QUALITY_LEVELS), help=text)


def check_combination(args: argparse.Namespace) -> None:
    """Refuse combinations in which a flag would be ignored.

    Raises:
        ValueError: there is one.
    """
    for flag, others, reason in EXCLUDES:
        for other in others:
            if _is_given(args, flag) and _is_given(args, other):
                raise ValueError(f"{flag} and {other} exclude each other: {reason}")
    for flag, modes in NEEDS.items():
        if _is_given(args, flag) and not any(_is_given(args, mode) for mode in modes):
            raise ValueError(f"{flag} needs {' or '.join(modes)}")


def _is_given(args: argparse.Namespace, flag: str) -> bool:
    value = getattr(args, flag.removeprefix("--").replace("-", "_"), None)
    if flag in ("--benchmark", "--calibration", "--use_ema"):
        return bool(value)
    return value is not None


def generation_options(args: argparse.Namespace, for_classes: bool = False) -> Any:
    """The :class:`GenerationOptions` or, for classes, :class:`VARGenerationOptions` asked for.

    Raises:
        ValueError: a value is not allowed.
    """
    kind: type = VARGenerationOptions if for_classes else GenerationOptions
    given = {
        name: getattr(args, each.name) for name, each in options_of(kind).items() if each.flags
    }
    return kind(**{name: value for name, value in given.items() if value is not None})
