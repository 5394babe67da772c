"""Steps of :mod:`benchmarks.gpu_session` that draw pictures: exactness, waiting, the table."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts import LeftOutError, Session
from benchmarks.speed import PROMPT, measure, paths, roofline, summary
from benchmarks.speed_report import AS_PUBLISHED, OURS
from hart.engine import Engine
from hart.modules.models.transformer.execution.token_wise import compiled

PRESETS = ("conservative", "hybrid", "original", "aggressive", "ultra-fast", "fastvar")
TURNS = {1: (2, 5), 8: (1, 3)}
"""By batch size: rounds that warm up, and measured ones."""


class Recorded:
    """Executes the steps of a generation, and keeps or replaces what the blocks are given.

    Args:
        steps: what executes.
        given: per call of the blocks, the tokens that they get in the place of their own.
    """

    def __init__(self, steps: Engine, given: list[torch.Tensor] | None = None) -> None:
        self.steps, self.given = steps, given
        self.tokens: list[torch.Tensor] = []
        self.hidden: list[torch.Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.steps, name)

    def run_blocks(self, x: torch.Tensor, run: Any, si: int, m_maskgit: Any = None) -> torch.Tensor:
        """Of the text, the last position alone is kept of what comes out."""
        if self.given is not None:
            x = self.given[len(self.hidden)].to(x.dtype, copy=True)
        self.tokens.append(x.clone())  # which may be changed
        hidden = self.steps.run_blocks(x, run, si, m_maskgit)
        self.hidden.append((hidden[:, -1:] if si == 0 else hidden).float())
        return hidden


def truth(session: Session) -> dict[str, Any]:
    """How far the blocks are from float32 at every stage, given its tokens; repeatability."""
    pipeline = session.pipeline
    half = Recorded(Engine(pipeline.transformer))
    pipeline.feature_map(pipeline.requests([PROMPT], seed=1), half)
    exact = Recorded(Engine((twin := session.build(torch.float32)).transformer), half.tokens)
    twin.feature_map(twin.requests([PROMPT], seed=1), exact)
    stages = [_distance(a, b) for a, b in zip(half.hidden, exact.hidden, strict=True)]
    return {"stages": stages, **_repeatability(pipeline)}


def _distance(found: torch.Tensor, exact: torch.Tensor) -> dict[str, Any]:
    error = (found - exact).norm() / exact.norm()
    return {
        "tokens": found.shape[1],
        "relative_error": error.item(),
        "largest": found.abs().max().item(),
        "finite": bool(found.isfinite().all()),
    }


def _pictures(pipeline: Any, count: int = 1) -> np.ndarray:
    """(count, H, W, 3) in [0, 1]: the same prompt with seeds from 1, drawn as one batch."""
    options = {"seed": 1, "batch_size": count, "quiet": True, "output_type": "np"}
    return pipeline([PROMPT] * count, **options).images


def _repeatability(pipeline: Any) -> dict[str, Any]:
    """Whether a second call draws the same, and how far the first picture of a batch is off."""
    alone, again = _pictures(pipeline), _pictures(pipeline)
    batches = {}
    for count in (2, 8):
        difference = np.abs(_pictures(pipeline, count)[0] - alone[0])
        batches[str(count)] = {"mean": float(difference.mean()), "most": float(difference.max())}
    return {"same_call_twice_equal": bool((alone == again).all()), "first_of_batch": batches}


@contextlib.contextmanager
def _told_to_warn(device: torch.device) -> Iterator[None]:
    """Inside, torch warns whenever the host waits for a GPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def synchronisations(session: Session) -> dict[str, Any]:
    """Where the host waits for the device while an image is drawn, by line, with and without an
    engine."""
    found = {}
    for name, use_engine in (("engine", True), ("plain", False)):
        session.pipeline.use_engine = use_engine
        _pictures(session.pipeline)
        with warnings.catch_warnings(record=True) as said, _told_to_warn(session.device):
            warnings.simplefilter("always")
            _pictures(session.pipeline)
        waits = [w for w in said if "synchroniz" in str(w.message)]
        lines = Counter(f"{w.filename.rpartition('hart/')[2]}:{w.lineno}" for w in waits)
        found[name] = {"count": len(waits), "lines": dict(lines.most_common(40))}
    return found


def table(session: Session) -> dict[str, Any]:
    """Seconds of every part and peak memory: as published, without caching, and by preset."""
    pipeline, report = session.pipeline, {}
    for batch_size, (warmup, rounds) in TURNS.items():
        if session.rehearsed:
            warmup, rounds = 0, 1
        ways = paths(pipeline, with_demo=False, presets=PRESETS)
        runs: dict[str, list] = {way.name: [] for way in ways}
        failed: dict[str, str] = {}
        for turn in range(warmup + rounds):
            for way in (way for way in ways if way.name not in failed):
                try:
                    found = measure(way, batch_size)
                except RuntimeError as error:  # out of memory, for example
                    failed[way.name] = str(error).splitlines()[0][:200]
                    session.tidy()
                    continue
                if turn >= warmup:
                    runs[way.name].append(found)
        limits = roofline(pipeline, batch_size, session.machine)
        report[str(batch_size)] = {
            "rounds": rounds,
            "limits": limits,
            "failed": failed,
            "paths": {
                name: {**summary(of_path), "limit_s": _limit(limits["parts"], of_path[0])}
                for name, of_path in runs.items()
                if of_path
            },
        }
    return {"batches": report, "published": AS_PUBLISHED, "reference": OURS}


def _limit(parts: dict[str, Any], run: dict[str, Any]) -> float:
    """Least seconds of an image: the transformer's less what was saved, and everything else."""
    stages = sum(part["limit_s"] for name, part in parts.items() if name.startswith("stage "))
    others = sum(part["limit_s"] for name, part in parts.items() if not name.startswith("stage "))
    return stages * (1 - run["saved_share"]) + others


def _first_and_best(session: Session) -> tuple[np.ndarray, dict[str, float]]:
    """A picture, and milliseconds of the first one and of the quickest of three more."""
    clock = []
    for _ in range(4):
        started = time.perf_counter()
        picture = _pictures(session.pipeline)
        clock.append(1000 * (time.perf_counter() - started))
    return picture, {"first_ms": clock[0], "best_ms": min(clock[1:])}


def _against_eager(session: Session, switch: str) -> dict[str, Any]:
    """One picture with a switch of the pipeline off and on."""
    found: dict[str, Any] = {}
    pictures = []
    for name, on in (("eager", False), (switch, True)):
        setattr(session.pipeline, switch, on)
        try:
            picture, found[name] = _first_and_best(session)
        finally:
            setattr(session.pipeline, switch, False)
        pictures.append(picture)
    return {**found, "largest_difference": float(np.abs(pictures[0] - pictures[1]).max())}


def graphs(session: Session) -> dict[str, Any]:
    """CUDA graphs against single launches: the first picture, the next ones, equality."""
    if not hasattr(session.pipeline, "cuda_graphs"):
        raise LeftOutError("this version has no CUDA graphs")
    return _against_eager(session, "cuda_graphs")


def compiled_blocks(session: Session) -> dict[str, Any]:
    """``torch.compile`` against eager; a rehearsal without a GPU traces but does not compile."""
    if session.device.type == "cuda":
        return _against_eager(session, "compile")
    with mock.patch("hart.engine.engine.compiled", return_value=compiled("eager")):
        return _against_eager(session, "compile")


def profiler(session: Session) -> dict[str, Any]:
    """Kernels of one picture without caching, by time; the whole table beside the report."""
    _pictures(session.pipeline)
    activities = [ProfilerActivity.CPU]
    if session.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        _pictures(session.pipeline)
    events = profiled.key_averages()
    order = f"self_{'cuda' if session.device.type == 'cuda' else 'cpu'}_time_total"
    text = events.table(sort_by=order, row_limit=60, max_name_column_width=80)
    (session.out / "profile.txt").write_text(text, encoding="utf-8")

    def device_us(event: Any) -> float:
        return event.self_device_time_total or event.self_cpu_time_total

    kernels = sorted(events, key=device_us, reverse=True)[:15]
    launches = sum(e.count for e in events if e.key in ("cudaLaunchKernel", "cuLaunchKernel"))
    top = {
        event.key[:80]: {"ms": device_us(event) / 1000, "calls": event.count} for event in kernels
    }
    return {"launches": launches, "top": top}
