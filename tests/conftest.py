"""What holds for every test process."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the processor: one thread each, for their child processes too. Set before torch
    # is imported, which reads it once.
    os.environ["OMP_NUM_THREADS"] = "1"
