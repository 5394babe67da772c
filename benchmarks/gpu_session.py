"""The first minutes on a GPU: every figure that the documentation lacks, by one command.

Run ``python -m benchmarks.gpu_session --out DIR``. It needs at most eight minutes and nothing but
what the library needs. Each step is guarded: what fails is reported, what no longer fits the budget
is left out, and after each one ``session.json`` and ``session.md`` are written, so that an
interruption keeps what is done. ``--shape tiny --device cpu`` rehearses all of it in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import gpu_parts, gpu_pictures
from benchmarks.gpu_parts import LeftOutError, Session
from benchmarks.gpu_report import markdown
from hart.evaluation.random_weights import RANDOM_SHAPES
from hart.pipeline.loading import resolve_place
from hart.utils.files import write_json, write_text

GRACE_S = 30
"""Beyond the budget, for the step that is running then."""


class Step(NamedTuple):
    """A part of the session: its name, the seconds it may need on a GPU, and what it does."""

    name: str
    estimate_s: float
    work: Callable[[Session], dict[str, Any]]


STEPS = (
    Step("versions", 1, gpu_parts.versions),
    Step("tests", 60, gpu_parts.gpu_tests),
    Step("ceilings", 15, gpu_parts.ceilings),
    Step("build", 15, gpu_parts.build),
    Step("truth", 30, gpu_pictures.truth),
    Step("synchronisations", 5, gpu_pictures.synchronisations),
    Step("table", 120, gpu_pictures.table),
    Step("graphs", 15, gpu_pictures.graphs),
    Step("profiler", 15, gpu_pictures.profiler),
    Step("decoder", 20, gpu_parts.decoder_variants),
    Step("compile", 90, gpu_pictures.compiled_blocks),
)


class TooLongError(Exception):
    """A step took longer than there is time."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise :class:`TooLongError` inside once the seconds are over, where the system can."""
    can = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not can:
        yield
        return

    def ring(*_: Any) -> None:
        raise TooLongError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(step: Step, session: Session, left_s: float) -> dict[str, Any]:
    """What came of a step: its ``status``, its seconds and what it found, or why it did not."""
    if step.estimate_s > left_s:
        return {"status": "left out", "why": f"{left_s:.0f} s left, it may need {step.estimate_s}"}
    started = time.perf_counter()
    found: dict[str, Any]
    try:
        with at_most(left_s + GRACE_S):
            found = {"status": "ok", **step.work(session)}
    except LeftOutError as reason:
        found = {"status": "left out", "why": str(reason)}
    except Exception as error:
        lines = traceback.format_exc().splitlines()[-20:]
        found = {"status": "failed", "why": f"{type(error).__name__}: {error}", "traceback": lines}
    session.tidy()
    return {**found, "took_s": time.perf_counter() - started}


def run(session: Session, names: list[str], budget_s: float) -> dict[str, Any]:
    """Take the named steps, writing the report after each one; returns it."""
    started = time.perf_counter()
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "shape": session.shape,
        "device": str(session.device),
        "dtype": str(session.dtype).removeprefix("torch."),
        "steps": {},
    }
    for step in STEPS:
        if step.name not in names:
            continue
        left_s = budget_s - (time.perf_counter() - started)
        report["steps"][step.name] = found = attempt(step, session, left_s)
        print(f"{step.name}: {found['status']} {found.get('why', '')}", file=sys.stderr, flush=True)
        write_json(session.out / "session.json", report)
        write_text(session.out / "session.md", markdown(report))
    return report


def parse(argv: list[str] | None) -> argparse.Namespace:
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_session")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--budget", type=float, default=420, help="seconds (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="STEP")
    shapes = [name for name, shape in RANDOM_SHAPES.items() if shape.draws == "prompts"]
    parser.add_argument("--shape", choices=shapes, default="0.7b-1024")
    parser.add_argument("--device")
    parser.add_argument("--dtype", help="default: float16 on CUDA, else float32")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    session = Session(args.out, args.shape, *resolve_place(args.device, args.dtype))
    report = run(session, args.only, args.budget)
    print(markdown(report))
    return 1 if any(step["status"] == "failed" for step in report["steps"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
