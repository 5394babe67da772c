"""Tables and checks shared by the tests of similarity files."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_io import SimilarityFileError, load_similarity
from hart.modules.networks.caching.stages import StageSchedule

HART_1024 = StageSchedule((1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64))
HART_SHORT = StageSchedule((1, 2, 3, 4, 5, 7, 9))
VAR_256 = StageSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
DEPTH = 2


def filled(schedule: StageSchedule, images: int = 3) -> SimilarityTables:
    """Tables whose entry says where it is: column/100, layer/1000, negative for MLP."""
    tables = SimilarityTables.empty(DEPTH, schedule)
    for layer in range(DEPTH):
        for column in schedule.columns:
            tables.attn[layer][column] = (column + 1) / 100 + layer / 1000
            tables.mlp[layer][column] = -(column + 1) / 100 - layer / 1000
    tables.images = images
    return tables


def refused(path: Path, message: str, schedule: StageSchedule = HART_1024) -> None:
    with pytest.raises(SimilarityFileError, match=message) as caught:
        load_similarity(path, DEPTH, schedule)
    assert str(path) in str(caught.value)
