"""Image conversion and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hart.utils.images import make_grid, png_bytes, save_images, save_png, to_pil, to_uint8

# A float16 number just below 8 / 255.
ROUNDS_UP_TO_8 = 0.0313720703125


def constant(*values: float, size: int = 2, dtype=torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)[:, None, None, None].expand(-1, 3, size, size)


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def test_levels_are_cut_not_rounded():
    levels = to_uint8(constant(0.0, 1.9 / 255, 254.9 / 255, 1.0))
    assert levels[:, 0, 0, 0].tolist() == [0, 1, 254, 255]


def test_channels_go_last_and_order_is_kept():
    images = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5) / 255 + 1e-5
    levels = to_uint8(images)
    assert levels.dtype == np.uint8
    assert levels.shape == (2, 4, 5, 3)
    assert levels[1, 2, 3].tolist() == [60 + 13, 80 + 13, 100 + 13]
    assert np.array_equal(np.asarray(to_pil(images)[1]), levels[1])


def test_half_images_are_scaled_in_their_own_dtype():
    """Times 255, this value rounds up to 8 in float16; in float32 it stays below."""
    value = torch.tensor(ROUNDS_UP_TO_8, dtype=torch.float16)
    assert to_uint8(value.expand(1, 3, 1, 1)).max() == 8
    assert to_uint8(value.float().expand(1, 3, 1, 1)).max() == 7
    assert to_uint8(constant(0.5, dtype=torch.bfloat16)).max() == 127


def test_values_outside_the_range_are_clamped_instead_of_wrapping():
    assert to_uint8(constant(-0.1, 1.1))[:, 0, 0, 0].tolist() == [0, 255]


def test_nan_is_black_and_told():
    with pytest.warns(UserWarning, match="NaN"):
        levels = to_uint8(constant(float("nan"), 1.0))
    assert levels[:, 0, 0, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (torch.zeros(3, 4, 4), ValueError),
        (torch.zeros(1, 4, 4, 4), ValueError),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TypeError),
        (np.zeros((1, 3, 4, 4)), TypeError),
    ],
)
def test_other_shapes_and_types_are_refused(images, error):
    with pytest.raises(error, match="images must"):
        to_uint8(images)


def test_grid_places_images_row_by_row_with_black_between():
    grid = make_grid(constant(0.1, 0.2, 0.3), columns=2)
    assert grid.shape == (3, 2 * 4 + 2, 2 * 4 + 2)
    assert grid[0, 2, 2] == pytest.approx(0.1)
    assert grid[0, 2, 6] == pytest.approx(0.2)
    assert grid[0, 7, 3] == pytest.approx(0.3)
    drawn = grid[0] > 0
    assert drawn.sum() == 12
    assert not drawn[:2].any()
    assert not drawn[:, 4:6].any()
    assert not drawn[6:, 6:].any()


def test_grid_has_twelve_columns_at_most_and_no_empty_ones():
    assert make_grid(torch.zeros(13, 3, 2, 2)).shape == (3, 2 * 4 + 2, 12 * 4 + 2)
    assert make_grid(torch.zeros(5, 3, 2, 2)).shape == (3, 4 + 2, 5 * 4 + 2)


@pytest.mark.parametrize(("count", "columns", "padding"), [(0, 1, 2), (1, 0, 2), (1, 1, -1)])
def test_impossible_grids_are_refused(count, columns, padding):
    with pytest.raises(ValueError, match="grid"):
        make_grid(torch.zeros(count, 3, 2, 2), columns, padding)


def test_several_images_become_one_grid_scaled_in_float16(tmp_path):
    images = constant(0.3, ROUNDS_UP_TO_8)
    (path,) = save_images(images, tmp_path / "new" / "folder", prompts=["a\nb", "ü"])
    assert path.name == "sample_images.png"
    levels = read(path)
    assert levels.shape == (6, 10, 3)
    assert levels[2, 6, 0] == 8
    assert sorted(p.name for p in path.parent.iterdir()) == ["prompt.txt", "sample_images.png"]
    assert (path.parent / "prompt.txt").read_text(encoding="utf-8") == "a b\nü\n"


def test_separate_images_are_numbered_from_zero(tmp_path):
    paths = save_images(constant(0.2, 0.4), tmp_path, store_separately=True)
    assert [path.name for path in paths] == ["000000.png", "000001.png"]
    assert [int(read(path)[0, 0, 0]) for path in paths] == [51, 102]
    assert not (tmp_path / "prompt.txt").exists()


def test_one_image_is_never_a_grid(tmp_path):
    (path,) = save_images(constant(0.2), tmp_path)
    assert path.name == "000000.png"
    assert read(path).shape == (2, 2, 3)


def test_saving_leaves_the_images_alone(tmp_path):
    images = torch.rand(2, 3, 4, 4)
    before = images.clone()
    save_images(images, tmp_path)
    save_images(images, tmp_path, store_separately=True)
    assert torch.equal(images, before)


def test_saving_no_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        save_images(torch.zeros(0, 3, 2, 2), tmp_path)


def test_png_text_chunks_are_read_back(tmp_path):
    metadata = {"prompt": "ein Boot, 雪", "seed": "7", "empty": "", "lines": "a\nb"}
    path = save_png(to_pil(constant(0.5))[0], tmp_path / "deep" / "a.png", metadata)
    with Image.open(path) as image:
        assert image.text == metadata


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside(tmp_path, monkeypatch):
    path = save_png(to_pil(constant(0.2))[0], tmp_path / "a.png")
    image = to_pil(constant(0.8))[0]

    def fail(target, **kwargs):
        target.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(image, path)
    assert int(read(path)[0, 0, 0]) == 51
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_bytes_of_a_picture_are_those_of_its_file(tmp_path):
    image, texts = Image.new("RGB", (3, 2), "red"), {"prompt": "a fox", "long": "x" * 1000}
    file = save_png(image, tmp_path / "picture.png", texts)
    assert png_bytes(image, texts) == file.read_bytes()
