"""``hart web``: serve a page on which people draw, compare and find plans."""

from __future__ import annotations

import argparse
import contextlib
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from hart.cli.loading import load_pipeline, speaker
from hart.cli.prompts import DEMO_PROMPTS, draws_demo
from hart.demo.captions import advice
from hart.demo.evaluate import held_out_prompts
from hart.modules.networks.caching.plan_files import StoredPlan
from hart.pipeline import HARTPipeline
from hart.utils.constants import default_prompts
from hart.utils.files import real_path
from hart.utils.safety_check import load_judge
from hart.web.choices import Choices
from hart.web.guard import ANY_NAME, is_loopback
from hart.web.handlers import Handlers
from hart.web.page import PageOptions, build_page, gradio_module
from hart.web.results import Keep
from hart.web.server import Address, prepare_folder, serving
from hart.web.studio import Studio

NUM_CALIBRATION_PROMPTS = 8
MAX_PORT = 65535


def run_web(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        ValueError, OSError: a user's mistake, a missing extra, or an address that is taken.
    """
    where, keep = read_address(args), Keep(args.keep_requests, args.keep_hours)
    gradio_module()  # complains about a missing extra before the model is loaded
    say, folder = speaker(args.quiet), Path(args.output_dir)
    prepare_folder(folder)
    pipeline = load_pipeline(args, say)
    if args.sim_path:
        pipeline.load_similarity(args.sim_path)
    shield = args.shield_model_path
    judge = None if shield is None else load_judge(shield, pipeline.device)
    studio = Studio(pipeline, judge, args.max_waiting)
    name = args.model_path or "bundled demo checkpoint"
    advise = advice if draws_demo(args) else None
    choices, options = choices_of(args, pipeline), page_options(args)
    handlers = Handlers(studio, name, real_path(folder), args.max_images, keep, advise, choices)
    page = build_page(handlers, options)
    with contextlib.closing(studio), serving(page, handlers, where) as address:
        say(
            f"{address} serves the page, results go to {folder}, the last {keep.requests} for "
            f"{keep.hours:g} hours; Ctrl-C stops it"
        )
        if where.auth is None and not is_loopback(where.host):
            say("everybody who can reach it may draw; --auth USER:PASSWORD asks who it is")
        studio.warm_up(options.prompts, choices.qualities[choices.first], options.seed)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                threading.Event().wait(3600)
    say("stopped")
    return 0


def choices_of(args: argparse.Namespace, pipeline: HARTPipeline) -> Choices:
    """What can be drawn with: the levels of quality, and the plan if one was given.

    Raises:
        ValueError, OSError: one of the plans cannot be used.
    """
    given = None if args.plan is None else StoredPlan.load(args.plan, pipeline.transformer)
    return Choices(pipeline, given, args.quality)


def read_address(args: argparse.Namespace) -> Address:
    """Where to serve the page, and for whom.

    Raises:
        ValueError: a flag's value is not allowed.
    """
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


def page_options(args: argparse.Namespace) -> PageOptions:
    """The demo's prompts for the demo, else the library's."""
    examples: Sequence[str] = default_prompts[:4]
    measured = default_prompts[4 : 4 + NUM_CALIBRATION_PROMPTS]
    if draws_demo(args):
        examples, measured = DEMO_PROMPTS, held_out_prompts(NUM_CALIBRATION_PROMPTS)[0]
    return PageOptions(
        examples, measured, max_waiting=args.max_waiting, calibration=args.visitors_calibrate
    )
