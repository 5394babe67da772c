"""Wall time of consecutive parts of work that runs on a device."""

from __future__ import annotations

import time

import torch


class Timeline:
    """A clock that is read at the end of every part and evaluated once the work is done.

    On CUDA a mark records an event in the device's current stream and does not wait, so that
    marking keeps the queue full; the work must stay on that stream. On MPS a mark waits for the
    device, elsewhere it reads the host's clock.

    Args:
        device: where the work is done. The first part starts now.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._names: list[str] = []
        self._times = [self._now()]

    def mark(self, name: str) -> None:
        """Close the part since the last mark and name it; names may repeat."""
        self._times.append(self._now())
        self._names.append(name)

    def seconds(self) -> list[tuple[str, float]]:
        """Name and seconds of every part so far, in order; on CUDA waits for the last of them."""
        last = self._times[-1]
        if isinstance(last, torch.cuda.Event):
            last.synchronize()
        lengths = map(self._between, self._times, self._times[1:])
        return list(zip(self._names, lengths, strict=True))

    def totals(self) -> dict[str, float]:
        """Seconds per name, parts of the same name added up."""
        totals: dict[str, float] = {}
        for name, seconds in self.seconds():
            totals[name] = totals.get(name, 0.0) + seconds
        return totals

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            return event
        if self._device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def _between(self, start, end) -> float:
        if self._device.type == "cuda":
            return start.elapsed_time(end) / 1000  # milliseconds
        return end - start
