"""Calibrating a whole pipeline in several calls."""

from __future__ import annotations

import pytest

from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline
from tests.pipeline.checkpoint_folder import make_checkpoint

PROMPTS = ["a red fox", "two boats", "an old tree"]


def test_two_calls_equal_one_call_over_all_prompts_whatever_the_batches(tmp_path):
    folder = make_checkpoint(tmp_path / "checkpoint")
    pipeline = HARTPipeline.from_pretrained(folder, device="cpu", system_prompt="")
    whole = pipeline.calibrate(PROMPTS, seed=5, batch_size=3, quiet=True)
    model = pipeline.model
    model.similarity = SimilarityTables.empty(model.depth, model.schedule)
    pipeline.calibrate(PROMPTS[:1], seed=5, quiet=True)
    parts = pipeline.calibrate(PROMPTS[1:], seed=6, batch_size=1, quiet=True)
    assert parts is not whole
    assert parts.images == whole.images == 3
    for site in ("attn", "mlp"):
        for row, expected in zip(parts.site(site), whole.site(site), strict=True):
            assert all(expected[column] != 0.0 for column in model.schedule.columns)
            assert row == pytest.approx(expected, abs=1e-6)
