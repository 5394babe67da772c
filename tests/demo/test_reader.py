"""The attribute reader: its interface and its files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from hart.demo.reader import (
    BUNDLED_READER,
    IMAGE_SIZE,
    AttributeReader,
    accuracy,
    load_reader,
    save_reader,
)
from hart.demo.scene import ATTRIBUTES

SIDE = 32


def small_reader() -> AttributeReader:
    torch.manual_seed(0)
    return AttributeReader(image_size=SIDE)


def noise(n: int, side: int = SIDE) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_reader(small_reader(), path)
    return path


def test_read_gives_one_valid_class_per_picture_and_attribute():
    read = small_reader().read(noise(3))
    assert list(read) == list(ATTRIBUTES)
    for name, values in read.items():
        assert values.shape == (3,)
        assert values.dtype == torch.int64
        assert 0 <= values.min() <= values.max() < len(ATTRIBUTES[name])


def test_a_reading_does_not_depend_on_the_rest_of_the_batch_or_on_the_mode():
    reader = small_reader().train()
    before = {k: v.clone() for k, v in reader.state_dict().items()}
    images = noise(8)
    together, alone = reader.read(images), reader.read(images[:1])
    assert all(torch.equal(together[name][:1], alone[name]) for name in together)
    assert reader.training
    assert all(torch.equal(v, before[k]) for k, v in reader.state_dict().items())


def test_half_precision_images_are_read_like_full_precision_ones():
    images, reader = noise(16), small_reader()
    half = reader.read(images.half())
    assert min(accuracy(half, reader.read(images)).values()) > 0.9


def test_large_pictures_are_averaged_before_they_are_read():
    torch.manual_seed(0)
    reader = AttributeReader(image_size=256)
    small = noise(2, 128)
    fine = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    coarse = AttributeReader(image_size=128)
    coarse.load_state_dict(reader.state_dict())
    for name, logits in coarse.eval()(small).items():
        torch.testing.assert_close(reader.eval()(fine)[name], logits)


@pytest.mark.parametrize("shape", [(3, 288, 288), (1, 1, 288, 288), (1, 3, 64, 64)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="images have shape"):
        AttributeReader().read(torch.zeros(shape))


def test_accuracy_is_the_share_of_agreeing_labels():
    read = {"concept": torch.tensor([0, 1, 2, 3]), "size": torch.tensor([1, 1, 1, 1])}
    labels = {"concept": torch.tensor([0, 1, 2, 0]), "size": torch.tensor([1, 1, 1, 1])}
    assert accuracy(read, labels) == {"concept": 0.75, "size": 1.0}


def test_a_saved_reader_reads_the_same_after_loading(saved):
    original, loaded = small_reader().eval(), load_reader(saved)
    images = noise(4)
    for name, logits in original(images).items():
        assert torch.equal(logits, loaded(images)[name])
    assert loaded.image_size == SIDE
    assert not loaded.training
    assert not list(saved.parent.glob("*.partial"))


def test_missing_files_are_named(saved):
    (saved.parent / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_reader(saved)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_reader(saved.parent / "absent.safetensors")


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"attributes": 3}', '{"attributes": {"size": ["small"]}}']
)
def test_a_damaged_config_is_an_error_that_names_the_file(saved, content):
    (saved.parent / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_reader(saved)


def test_weights_that_are_truncated_or_foreign_are_an_error_that_names_the_file(saved):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_reader(saved)
    save_file({"other": torch.zeros(1)}, saved)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_reader(saved)


def test_the_bundled_reader_is_small_and_knows_the_scene_attributes():
    config = json.loads((BUNDLED_READER.parent / "config.json").read_text())
    assert {k: tuple(v) for k, v in config["attributes"].items()} == ATTRIBUTES
    assert BUNDLED_READER.stat().st_size < 1_000_000
    assert load_reader().image_size == config["image_size"] == IMAGE_SIZE
