"""``hart serve``: images over HTTP, as OpenAI's clients ask for them."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from hart.cli.loading import load_pipeline, speaker
from hart.evaluation.extras import import_extra
from hart.pipeline import HARTPipeline
from hart.server import API_KEY_VARIABLE
from hart.server.application import Access, pipeline_application
from hart.web.guard import AllowedHosts, is_loopback
from hart.web.listening import listening, running, url_of

DEMO_NAME = "hart-demo"
MAX_PORT = 65535
_WHAT = "the server"
_AFTER_GRACE_S = 5.0


def run_serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, then finish what is drawn.

    Raises:
        ValueError, OSError: a user's mistake, a missing extra, or an address that is taken.
    """
    access, name = read_access(args), served_name(args)
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        import_extra(package, "hart serve", "server")
    with listening(args.host, args.port, _WHAT):  # complain before the model is loaded
        pass
    say = speaker(args.quiet)
    pipeline = load_pipeline(args, say)
    if args.sim_path:
        pipeline.load_similarity(args.sim_path)
    application, queue = pipeline_application(
        pipeline,
        name,
        args.batch_size,
        args.max_waiting,
        access,
        max_images=args.max_images,
        max_prompt=args.max_prompt,
    )
    with contextlib.closing(queue), listening(args.host, args.port, _WHAT) as listener:
        times = {"grace_s": args.grace_s, "wait_s": args.grace_s + _AFTER_GRACE_S}
        with _sigterm_is_ctrl_c(), running(application, listener, **times):
            with contextlib.suppress(KeyboardInterrupt):
                _introduce(args, name, access, pipeline, say)
                while True:
                    threading.Event().wait(3600)
            say("finishing what is being drawn; Ctrl-C again does not wait for it")
            queue.drain()
    say("stopped")
    return 0


def read_access(args: argparse.Namespace) -> Access:
    """Who is to be answered.

    Raises:
        ValueError: a flag's value is not allowed.
    """
    if args.port > MAX_PORT:
        raise ValueError(f"--port must be at most {MAX_PORT}, got {args.port}")
    if args.calibration:
        raise ValueError("--calibration: hart serve draws only; hart generate calibrates")
    key = os.environ.get(API_KEY_VARIABLE) if args.api_key is None else args.api_key
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
        raise ValueError("the API key must be printable ASCII without spaces around it")
    private = key is None and is_loopback(args.host)
    return Access(key, AllowedHosts(args.host, args.allowed_host) if private else None)


def served_name(args: argparse.Namespace) -> str:
    """What clients call the model: the argument, else the checkpoint's folder."""
    if args.served_model_name is not None:
        return args.served_model_name
    if args.model_path is None:
        return DEMO_NAME
    path = Path(args.model_path).absolute()
    return path.parent.name if path.name == "llm" else path.name


def _introduce(
    args: argparse.Namespace,
    name: str,
    access: Access,
    pipeline: HARTPipeline,
    say: Callable[[str], None],
) -> None:
    say(f"{url_of(args.host, args.port)}v1 serves {name}; Ctrl-C stops it")
    if access.api_key is None and not is_loopback(args.host):
        say(f"everybody who can reach it may draw; --api-key or {API_KEY_VARIABLE} asks for a key")
    if pipeline.transformer.similarity.is_empty:
        say("no similarity table, so nothing is reused; hart generate --calibration makes one")


@contextlib.contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # only the main thread may
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
