from __future__ import annotations

from pathlib import Path

import pytest

from hart.pipeline import HARTPipeline
from tests.copies import Original
from tests.pipeline.checkpoint_folder import make_checkpoint


@pytest.fixture(scope="session")
def shared_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint that no test changes."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint of the test's own."""
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture(scope="session")
def loaded(shared_checkpoint) -> Original:
    return Original(HARTPipeline.from_pretrained(shared_checkpoint, device="cpu", system_prompt=""))


@pytest.fixture
def pipeline(loaded) -> HARTPipeline:
    """A pipeline of the test's own."""
    return loaded.copy()
