from __future__ import annotations

from pathlib import Path

import pytest

from hart.pipeline import HARTPipeline
from tests.pipeline.checkpoint_folder import make_checkpoint


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny checkpoint that no test changes."""
    return make_checkpoint(tmp_path_factory.mktemp("reliability") / "checkpoint")


@pytest.fixture(scope="package")
def pipeline(checkpoint) -> HARTPipeline:
    """It is never loaded again: what a test leaves behind, the next one would see."""
    return HARTPipeline.from_pretrained(checkpoint, device="cpu", system_prompt="")
