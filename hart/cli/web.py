"""``hart web``: serve a page on which people try prompts, presets and calibration."""

from __future__ import annotations

import argparse
import contextlib
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hart.cli.arguments import DEFAULT_SEED, add_model_arguments, add_system_prompt_file
from hart.cli.parser import add_debug, integer_from, number_within
from hart.cli.prompts import DEMO_PROMPTS
from hart.utils.constants import default_prompts
from hart.utils.files import real_path
from hart.web import DEFAULT_MAX_WAITING, DEFAULT_PORT, LOOPBACK
from hart.web.guard import ANY_NAME, is_loopback
from hart.web.results import KEEP, Keep

if TYPE_CHECKING:
    from hart.pipeline import HARTPipeline
    from hart.web.page import PageOptions
    from hart.web.server import Address

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
        "who can reach it, by a numeric address or this machine's name)",
    )
    page.add_argument(
        "--port", type=integer_from(1), default=DEFAULT_PORT, help="default: %(default)s"
    )
    page.add_argument(
        "--output_dir",
        default="web_samples",
        help="where results go; the page serves no other files (default: %(default)s)",
    )
    page.add_argument(
        "--max_images",
        type=integer_from(1),
        default=8,
        help="images of one request (default %(default)s)",
    )
    page.add_argument(
        "--keep_requests",
        type=integer_from(1),
        default=KEEP.requests,
        help="finished requests whose files stay; older ones are removed (default %(default)s)",
    )
    page.add_argument(
        "--keep_hours",
        type=number_within(0.01, 1e6),
        default=KEEP.hours,
        help="hours after which a finished request's files are removed (default %(default)g)",
    )
    page.add_argument(
        "--max_waiting",
        type=integer_from(1),
        default=DEFAULT_MAX_WAITING,
        help="requests that may wait for the model (default %(default)s)",
    )
    page.add_argument(
        "--no-calibration",
        dest="visitors_calibrate",
        action="store_false",
        help="without the tab that changes the similarity table for everybody",
    )
    _add_access(parser.add_argument_group("access"))
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    add_debug(parser)
    parser.set_defaults(run=run_web, random_weights=None, calibration=None)


def _add_access(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--auth", metavar="USER:PASSWORD", help="let in only who knows these (default: everybody)"
    )
    group.add_argument(
        "--allowed_host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further host name to answer to, as a proxy or the DNS has it, without port; may be "
        "repeated, '*' stands for all (default: localhost and loopback addresses; with --host also "
        "that, all numeric addresses and this machine's name)",
    )
    group.add_argument(
        "--root_path",
        metavar="PATH",
        help="path under which a proxy serves the page and which it takes off, such as /hart",
    )


def run_web(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        ValueError, OSError: a user's mistake, a missing extra, or an address that is taken.
    """
    # Here, because `hart --help` must not wait for them.
    from hart.cli.loading import load_pipeline
    from hart.web.handlers import Handlers
    from hart.web.page import build_page, gradio_module
    from hart.web.server import prepare_folder, serving
    from hart.web.studio import Studio

    where, keep = read_address(args), Keep(args.keep_requests, args.keep_hours)
    gradio_module()  # complains about a missing extra before the model is loaded

    def say(line: str) -> None:
        if not args.quiet:
            print(line, flush=True)

    folder = Path(args.output_dir)
    prepare_folder(folder)
    pipeline = load_pipeline(args, say)
    if args.sim_path:
        pipeline.load_similarity(args.sim_path)
    studio = Studio(pipeline, load_judge_of(args, pipeline), args.max_waiting)
    name = args.model_path or "bundled demo checkpoint"
    handlers = Handlers(studio, name, real_path(folder), args.max_images, keep)
    page = build_page(handlers, page_options(args))
    with contextlib.closing(studio), serving(page, handlers, where) as address:
        say(
            f"{address} serves the page, results go to {folder}, the last {keep.requests} for "
            f"{keep.hours:g} hours; Ctrl-C stops it"
        )
        if where.auth is None and not is_loopback(where.host):
            say("everybody who can reach it may draw; --auth USER:PASSWORD asks who it is")
        studio.warm_up()
        wait_for_interrupt()
    say("stopped")
    return 0


def read_address(args: argparse.Namespace) -> Address:
    """Where to serve the page, and for whom.

    Raises:
        ValueError: a flag's value is not allowed.
    """
    from hart.web.server import Address

    if args.port > MAX_PORT:
        raise ValueError(f"--port must be at most {MAX_PORT}, got {args.port}")
    for name in args.allowed_host:
        if name != ANY_NAME and not re.fullmatch(r"[\w.-]+|\[?[0-9A-Fa-f:.]+\]?", name):
            raise ValueError(
                f"--allowed_host must be a host name without scheme, port and path, got {name!r}"
            )
    root = args.root_path
    if root is not None and not re.fullmatch(r"(https?://[^/\s]+)?(/[^/\s?#]+)+", root):
        raise ValueError(f"--root_path must be a path such as /hart, got {root!r}")
    user, colon, password = (args.auth or "").partition(":")
    if args.auth is not None and not (user and colon and password and user == user.strip()):
        raise ValueError("--auth must be USER:PASSWORD, neither of them empty")
    auth = None if args.auth is None else (user, password)
    return Address(args.host, args.port, args.allowed_host, auth, root)


def load_judge_of(args: argparse.Namespace, pipeline: HARTPipeline) -> Callable[[str], bool] | None:
    """What refuses prompts; None without ``--shield_model_path``."""
    if args.shield_model_path is None:
        return None
    from hart.utils.safety_check import load_judge

    return load_judge(args.shield_model_path, pipeline.device)


def page_options(args: argparse.Namespace) -> PageOptions:
    """The demo's prompts for the demo, else the library's."""
    from hart.web.page import PageOptions

    common = partial(
        PageOptions,
        seed=DEFAULT_SEED,
        max_waiting=args.max_waiting,
        calibration=args.visitors_calibrate,
    )
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
