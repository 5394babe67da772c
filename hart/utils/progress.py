"""How far a run is: a bar on a terminal and in a notebook, elsewhere a line each minute."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from tqdm.auto import tqdm

LOG_SECONDS = 60.0


def progress_bar(total: int, unit: str, quiet: bool = False, **options: Any) -> Any:
    """A ``tqdm`` bar, or what takes its place in a log; a context manager.

    Args:
        total, unit: how many of what there are.
        quiet: show nothing.
        options: of ``tqdm``; ``disable`` False means a bar wherever this is.
    """
    disable = options.pop("disable", None)
    if disable is None and not (quiet or sys.stderr.isatty() or _in_notebook()):
        return _LogLines(total, unit)
    return tqdm(total=total, unit=unit, disable=quiet or bool(disable), **options)


def _in_notebook() -> bool:
    interactive: Any = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    return shell is not None and "IPKernelApp" in shell.config


class _LogLines:
    """Writes how far a run is, and how long it will take, each minute until it ends."""

    def __init__(self, total: int, unit: str) -> None:
        self.n, self._total, self._unit = 0, total, unit
        self._description, self._started = "", time.monotonic()
        self._ended = threading.Event()

    def update(self, n: int = 1) -> None:
        self.n += n

    def set_description(self, text: str) -> None:
        self._description = f"{text}: "

    def __enter__(self) -> _LogLines:
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        while not self._ended.wait(LOG_SECONDS):
            elapsed = time.monotonic() - self._started
            left = "?"
            if self.n:
                left = tqdm.format_interval(elapsed / self.n * (self._total - self.n))
            print(
                f"{self._description}{self.n} of {self._total} {self._unit}s after "
                f"{tqdm.format_interval(elapsed)}, {left} left",
                file=sys.stderr,
                flush=True,
            )
