"""``hart web``: serve a page on which people try prompts, presets and calibration."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hart.cli.arguments import DEFAULT_SEED, add_model_arguments, add_system_prompt_file
from hart.cli.parser import add_debug, integer_from
from hart.cli.prompts import DEMO_PROMPTS
from hart.utils.constants import default_prompts
from hart.utils.files import real_path
from hart.web.address import DEFAULT_PORT, LOOPBACK

if TYPE_CHECKING:
    from hart.pipeline import HARTPipeline
    from hart.web.page import PageOptions

NUM_CALIBRATION_PROMPTS = 8
MAX_PORT = 65535


def add_web_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to ``hart``."""
    parser = commands.add_parser("web", help="serve a page to draw and calibrate on")
    parser.description = (
        "Serve a page on which people draw with presets or settings of their own, compare with "
        "no-cache and calibrate. Ctrl-C stops it. Needs the extra web."
    )
    model = parser.add_argument_group("model")
    add_model_arguments(model)
    add_system_prompt_file(model)
    model.add_argument(
        "--sim-path", help="similarity data (default: cache_similarity.json in the checkpoint)"
    )
    model.add_argument(
        "--shield_model_path",
        metavar="FOLDER",
        help="a ShieldGemma-style model that refuses unsafe prompts (default: none does)",
    )
    page = parser.add_argument_group("page")
    page.add_argument(
        "--host",
        default=LOOPBACK,
        help="address to listen at (default %(default)s: this machine only; 0.0.0.0: everybody "
        "who can reach it)",
    )
    page.add_argument(
        "--port", type=integer_from(1), default=DEFAULT_PORT, help="default: %(default)s"
    )
    page.add_argument(
        "--output_dir",
        default="web_samples",
        help="where results go; the page serves files from nowhere else (default: %(default)s)",
    )
    page.add_argument(
        "--max_images",
        type=integer_from(1),
        default=8,
        help="images of one request (default %(default)s)",
    )
    page.add_argument(
        "--max_waiting",
        type=integer_from(1),
        default=8,
        help="requests that may wait for the model (default %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    add_debug(parser)
    parser.set_defaults(run=run_web, random_weights=None, calibration=None)


def run_web(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        ValueError, OSError: a user's mistake, a missing extra, or an address that is taken.
    """
    if args.port > MAX_PORT:
        raise ValueError(f"--port must be at most {MAX_PORT}, got {args.port}")
    # Here, because `hart --help` must not wait for them.
    from hart.cli.loading import load_pipeline
    from hart.web.handlers import Handlers
    from hart.web.page import build_page, gradio_module
    from hart.web.server import page_folder, serving
    from hart.web.studio import Studio

    gradio_module()  # complains about a missing extra before the model is loaded

    def say(line: str) -> None:
        if not args.quiet:
            print(line, flush=True)

    folder = Path(args.output_dir)
    with page_folder(folder):
        pipeline = load_pipeline(args, say)
        if args.sim_path:
            pipeline.load_similarity(args.sim_path)
        studio = Studio(pipeline, load_judge_of(args, pipeline))
        name = args.model_path or "bundled demo checkpoint"
        handlers = Handlers(studio, name, real_path(folder), args.max_images)
        page = build_page(handlers, page_options(args))
        with serving(page, folder, args.host, args.port) as address:
            say(f"{address} serves the page, results go to {folder}; Ctrl-C stops it")
            wait_for_interrupt()
    say("stopped")
    return 0


def load_judge_of(args: argparse.Namespace, pipeline: HARTPipeline) -> Callable[[str], bool] | None:
    """What refuses prompts; None without ``--shield_model_path``."""
    if args.shield_model_path is None:
        return None
    from hart.utils.safety_check import load_judge

    return load_judge(args.shield_model_path, pipeline.device)


def page_options(args: argparse.Namespace) -> PageOptions:
    """The demo's prompts for the demo, else the library's."""
    from hart.web.page import PageOptions

    common = partial(PageOptions, seed=DEFAULT_SEED, max_waiting=args.max_waiting)
    if args.model_path is not None:
        return common(default_prompts[:4], default_prompts[4 : 4 + NUM_CALIBRATION_PROMPTS])
    from hart.demo.evaluate import held_out_prompts

    return common(DEMO_PROMPTS, held_out_prompts(NUM_CALIBRATION_PROMPTS)[0])


def wait_for_interrupt() -> None:
    """Return after Ctrl-C."""
    try:
        while True:
            threading.Event().wait(3600)
    except KeyboardInterrupt:
        pass
