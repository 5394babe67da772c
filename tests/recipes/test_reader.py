"""Training the attribute reader."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hart.demo.reader import load_reader
from recipes.demo.reader import train_reader


@pytest.fixture(autouse=True)
def white_squares(monkeypatch):
    """Opaque white boxes in place of the package's pictures."""

    def sprite(name: str, side: int) -> np.ndarray:
        return np.ones((side, side, 4), np.float32)

    monkeypatch.setattr("recipes.demo.render.sprite", sprite)
    monkeypatch.setattr("recipes.demo.reader._BATCH", 4)


def test_training_is_repeatable_leaves_the_global_generator_alone_and_learns(tmp_path):
    state = torch.random.get_rng_state()
    readers = [train_reader(tmp_path / name / "r.safetensors", 2, seed=5) for name in "ab"]
    assert torch.equal(state, torch.random.get_rng_state())
    first, again = (reader.state_dict() for reader in readers)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["heads.size.bias"], torch.zeros(3))
    assert (tmp_path / "a" / "r.safetensors").is_file()


def test_no_training_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="steps is 0"):
        train_reader(tmp_path / "r.safetensors", 0, seed=0)


def test_a_reader_of_large_pictures_is_saved_with_their_size(tmp_path):
    train_reader(tmp_path / "r.safetensors", 1, seed=0)
    reader = load_reader(tmp_path / "r.safetensors")
    assert reader.image_size == 288
    assert set(reader.read(torch.zeros(2, 3, 288, 288))) == {
        "concept",
        "background",
        "size",
        "position",
    }
