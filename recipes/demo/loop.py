"""One resumable training phase: fixed number of steps, one-cycle rate, atomic checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from hart.utils.device import computes_fast_in_half
from hart.utils.files import replacing

SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class Phase:
    """What a phase trains and for how long.

    Attributes:
        name: folder of the phase inside the run.
        steps: optimiser steps in total.
        learning_rate: peak of the schedule, reached after ``warmup`` of the steps; cosine decay to
            a hundredth of it.
        seed: every step draws from a generator seeded with (seed, step), so that an interrupted
            run continues as if it had not stopped.
        clip: largest norm of the gradient.
    """

    name: str
    steps: int
    learning_rate: float
    seed: int = 0
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0


@dataclass
class PhaseReport:
    """What the manifest says about a phase."""

    steps: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)


LossFunction = Callable[[int, np.random.Generator], tuple[torch.Tensor, dict[str, float]]]
"""(step, generator) to the loss and the numbers to show."""


def run_phase(
    phase: Phase,
    module: nn.Module,
    loss_function: LossFunction,
    folder: Path,
    quiet: bool = False,
    optimizers: list[torch.optim.Optimizer] | None = None,
) -> PhaseReport:
    """Train the module's trainable parameters in place; resumes from ``folder`` when it can.

    Args:
        loss_function: computes the loss of one step; it draws only from the generator it gets and
            from torch's global one, which is seeded for every step.
        folder: where ``<phase.name>.pt`` (the state) and ``<phase.name>.jsonl`` (the log) live.
        optimizers: instead of AdamW over everything; their rates are peaks of the schedule.
    """
    torch.set_flush_denormal(True)  # a CPU takes many times as long for them
    parameters = [p for p in module.parameters() if p.requires_grad]
    if optimizers is None:
        optimizers = [
            torch.optim.AdamW(
                parameters,
                lr=phase.learning_rate,
                betas=(0.9, 0.95),
                weight_decay=phase.weight_decay,
            )
        ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    state_file = folder / f"{phase.name}.pt"
    report = _resume(state_file, module, optimizers)
    progress = tqdm(
        total=phase.steps,
        initial=report.steps,
        desc=phase.name,
        disable=None if not quiet else True,
    )
    last_save = started = time.monotonic()
    seconds_before = report.seconds
    while report.steps < phase.steps:
        torch.manual_seed(phase.seed * 1_000_003 + report.steps)
        rng = np.random.default_rng([phase.seed, report.steps])
        _set_rates(optimizers, phase, report.steps)
        loss, shown = loss_function(report.steps, rng)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, phase.clip)
        for optimizer in optimizers:
            optimizer.step()
        _smooth(report.losses, {"loss": loss.item(), **shown})
        report.steps += 1
        report.seconds = seconds_before + time.monotonic() - started
        progress.update()
        progress.set_postfix({k: f"{v:.4f}" for k, v in report.losses.items()}, refresh=False)
        done = report.steps == phase.steps
        if done or time.monotonic() - last_save > SECONDS_BETWEEN_CHECKPOINTS:
            _save(state_file, module, optimizers, report)
            _log(folder / f"{phase.name}.jsonl", report)
            last_save = time.monotonic()
    progress.close()
    return report


def training_autocast(device: str) -> torch.autocast:
    """bfloat16 arithmetic where the device is quick at it, else float32."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=computes_fast_in_half(device))


def image_layout(device: str) -> torch.memory_format:
    """The layout that trains fastest: plain on a CPU, whose group norms are slow in the other."""
    return torch.contiguous_format if device == "cpu" else torch.channels_last


def _set_rates(optimizers, phase: Phase, step: int) -> None:
    warmup = max(1, round(phase.warmup * phase.steps))
    if step < warmup:
        factor = (step + 1) / warmup
    else:
        along = (step - warmup) / max(1, phase.steps - warmup)
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * along))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def _smooth(average: dict[str, float], values: dict[str, float], weight: float = 0.02) -> None:
    for name, value in values.items():
        average[name] = average.get(name, value) * (1 - weight) + value * weight


def _resume(state_file: Path, module: nn.Module, optimizers) -> PhaseReport:
    if not state_file.is_file():
        return PhaseReport()
    state = torch.load(state_file, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return PhaseReport(**state["report"])


def _save(state_file: Path, module: nn.Module, optimizers, report: PhaseReport) -> None:
    state = {
        "module": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "report": vars(report),
    }
    with replacing(state_file) as beside:
        torch.save(state, beside)


def _log(file: Path, report: PhaseReport) -> None:
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(vars(report)) + "\n")
