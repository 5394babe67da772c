from __future__ import annotations

from pathlib import Path

import pytest

from hart.pipeline import HARTPipeline
from tests.pipeline.checkpoint_folder import make_checkpoint


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Fuzzing is of the second tier, and importing what it takes needs a second."""
    return (config.option.markexpr == "not slow" and collection_path.name == "test_fuzz.py") or None


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny checkpoint that no test changes."""
    return make_checkpoint(tmp_path_factory.mktemp("reliability") / "checkpoint")


@pytest.fixture(scope="package")
def pipeline(checkpoint) -> HARTPipeline:
    """It is never loaded again: what a test leaves behind, the next one would see."""
    return HARTPipeline.from_pretrained(checkpoint, device="cpu", system_prompt="")
