"""Wall time of work that runs on a device."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Seconds between laps; waits for the device, so that a lap holds the work it started.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = self._now()

    def lap_s(self) -> float:
        """Seconds since the last call."""
        now = self._now()
        elapsed, self._last = now - self._last, now
        return elapsed

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()
