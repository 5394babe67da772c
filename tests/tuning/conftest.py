from __future__ import annotations

from pathlib import Path

import pytest

from hart.pipeline import HARTPipeline
from hart.tuning.measurements import Measurements
from hart.tuning.measuring import measure
from tests.pipeline.checkpoint_folder import make_checkpoint

PROMPTS = ["a red star", "a blue ring"]


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tuning") / "checkpoint")


@pytest.fixture(scope="package")
def pipeline(checkpoint) -> HARTPipeline:
    return HARTPipeline.from_pretrained(checkpoint, device="cpu", system_prompt="")


@pytest.fixture(scope="package")
def measured(pipeline) -> Measurements:
    """Nobody may change it."""
    return measure(pipeline, PROMPTS, quiet=True)
