"""Real processes of ``hart serve``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def serve(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A process of ``hart`` that is ready, and what it said about that."""
    with subprocess.Popen(
        [sys.executable, "-m", "hart", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as server:
        try:
            yield server, next(line for line in server.stdout if " serves " in line)
        finally:
            server.kill()
