from __future__ import annotations

from pathlib import Path

import pytest

from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline
from hart.web.handlers import Handlers
from hart.web.studio import Studio
from tests.copies import Original
from tests.pipeline.checkpoint_folder import DEPTH, make_checkpoint

MAX_IMAGES = 3


@pytest.fixture(scope="session")
def web_checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("web") / "checkpoint")


def similar_pipeline(checkpoint: Path) -> HARTPipeline:
    """A tiny model whose attentions are all similar and whose MLPs are not."""
    pipeline = HARTPipeline.from_pretrained(checkpoint, device="cpu", system_prompt="")
    width = pipeline.model.schedule.width
    high, low = ([[value] * width for _ in range(DEPTH)] for value in (0.9, 0.1))
    pipeline.model.similarity = SimilarityTables(high, low, images=2)
    return pipeline


@pytest.fixture(scope="session")
def loaded(web_checkpoint) -> Original:
    return Original(similar_pipeline(web_checkpoint))


@pytest.fixture
def pipeline(loaded) -> HARTPipeline:
    """A pipeline of the test's own."""
    return loaded.copy()


@pytest.fixture
def studio(pipeline) -> Studio:
    return Studio(pipeline)


@pytest.fixture
def handlers(studio, tmp_path) -> Handlers:
    pytest.importorskip("matplotlib")
    pytest.importorskip("skimage")
    return Handlers(studio, "a tiny model", tmp_path / "out", MAX_IMAGES)
