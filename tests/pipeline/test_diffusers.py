"""``diffusers`` loads the pipeline as a custom one; with the real library where it is installed."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hart.pipeline import HARTPipeline
from tests.pipeline.test_keywords import PROMPT, pixels

FOLDER = str(Path(__file__).parents[2] / "integrations" / "diffusers")


@pytest.fixture
def from_pretrained(tmp_path, monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    modules = importlib.import_module("diffusers.utils.dynamic_modules_utils")
    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return partial(diffusers.DiffusionPipeline.from_pretrained, trust_remote_code=True)


def test_a_saved_checkpoint_is_loaded_with_the_custom_pipeline(from_pretrained, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = from_pretrained(str(tmp_path / "saved"), custom_pipeline=FOLDER, cache="original")
    assert loaded.hart.is_cache_enabled
    loaded.hart.disable_cache()
    loaded.set_progress_bar_config(disable=True)
    seed = {"generator": torch.Generator().manual_seed(2), "guidance_scale": 3.0}
    drawn = loaded.to("cpu")(prompt=PROMPT, **seed).images[0]
    expected = pipeline(PROMPT, generator=torch.Generator().manual_seed(2), guidance_scale=3.0)
    assert np.array_equal(pixels(drawn), pixels(expected.images[0]))
    assert (loaded.device.type, loaded.dtype) == ("cpu", torch.float32)
    loaded.save_pretrained(tmp_path / "again")
    assert HARTPipeline.from_pretrained(tmp_path / "again").folders.llm.is_dir()


def test_a_published_checkpoint_is_named_beside_the_folder(from_pretrained, shared_checkpoint):
    loaded = from_pretrained(FOLDER, checkpoint=str(shared_checkpoint), precision="bf16")
    assert loaded.hart.folders.root == shared_checkpoint
    assert loaded.dtype is torch.bfloat16
