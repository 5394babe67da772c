"""How much memory a run takes: of the process, of the device, and of what outlives a stage."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hart.pipeline import HARTPipeline

_PROC = Path("/proc/self")


class MemoryWatch:
    """Peak memory of this process and of the device since the watch was made.

    The device's peak is CUDA's ``max_memory_allocated``; MPS only tells what is allocated at the
    moment, and the CPU has nothing beside the process. The process's peak is that of its resident
    memory. Linux can start it anew; elsewhere it covers the process's whole life.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._restarted = _restart_resident_peak()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> dict[str, Any]:
        """``process_bytes`` and ``device_bytes``, each None if unknown, and what each one is."""
        since = "during the measured runs" if self._restarted else "since the process started"
        return {
            "process_bytes": _status_bytes("VmHWM") if self._restarted else _peak_of_its_life(),
            "process_is": f"peak resident memory {since}",
            **device_memory(self._device),
        }


def device_memory(device: torch.device) -> dict[str, Any]:
    """``device_bytes`` (None on the CPU) and ``device_is``, which function told them."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        return {"device_bytes": peak, "device_is": "torch.cuda.max_memory_allocated"}
    if device.type == "mps":
        now = torch.mps.current_allocated_memory()
        return {"device_bytes": now, "device_is": "torch.mps.current_allocated_memory, no peak"}
    return {"device_bytes": None, "device_is": "the CPU has no memory of its own"}


def resident_bytes() -> int | None:
    """Resident memory of this process now; None where the system does not tell (not Linux)."""
    return _status_bytes("VmRSS")


def _restart_resident_peak() -> bool:
    """Let Linux forget the peak so far (proc(5), ``clear_refs``); whether that was possible."""
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return _status_bytes("VmHWM") is not None


def _status_bytes(name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in (_PROC / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _peak_of_its_life() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_bytes(
    pipeline: HARTPipeline, batch_size: int, statistics: Mapping[str, Any]
) -> dict[str, int]:
    """What stays in memory from one stage to the next, each part at its peak.

    Unlike the resident memory of a process this does not depend on what ran before, so that
    configurations can be compared on any device. Activations inside a stage come on top.

    Args:
        batch_size: images drawn at the same time.
        statistics: of a run, from ``model.get_cache_statistics()``.

    Returns:
        ``weights`` (the engine's copy of the decoder included), ``keys_values`` (of the tokens
        that have some) and ``feature_cache``, in bytes.
    """
    model = pipeline.model
    parts = (model, model.vae_proxy[0], pipeline.text_model)
    modules = [part for part in parts if part is not None]  # classes need no text encoder
    weights = sum(p.numel() * p.element_size() for m in modules for p in m.parameters())
    tokens = statistics["key_value_tokens"]["peak"]
    if not tokens:  # nothing was counted; rows are those with and without text
        tokens = 2 * batch_size * model.depth * sum(model.transformer_shape.new_tokens)
    return {
        "weights": weights + pipeline.decoder_copy_bytes,
        "keys_values": 2 * tokens * model.C * model.dtype.itemsize,
        "feature_cache": statistics["feature_cache_bytes"]["peak"],
    }
