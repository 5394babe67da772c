"""PSNR and SSIM against formulas, and what is refused."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hart.evaluation.extras import MissingExtraError
from hart.evaluation.image_metrics import psnr_db, quality, ssim
from hart.evaluation.learned_metrics import AttributeAccuracy, ClipScore, LpipsDistance

GREY = Image.new("RGB", (16, 16), (100, 100, 100))
LIGHTER = Image.new("RGB", (16, 16), (110, 110, 110))


def noise(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_psnr_of_a_constant_difference():
    assert psnr_db([LIGHTER], [GREY]) == pytest.approx(20 * math.log10(255 / 10))


def test_psnr_averages_the_error_before_the_logarithm():
    # Half of the pictures are equal, so the mean squared error halves: 3 dB more.
    both = psnr_db([LIGHTER, GREY], [GREY, GREY])
    assert both == pytest.approx(20 * math.log10(255 / 10) + 10 * math.log10(2))


def test_levels_do_not_wrap_around():
    assert psnr_db([GREY], [LIGHTER]) == psnr_db([LIGHTER], [GREY])


def test_equal_pictures_are_counted_and_have_no_psnr():
    numbers = quality([GREY, LIGHTER], [GREY, LIGHTER], ["a", "b"])
    assert numbers == {"psnr_db": None, "ssim": 1.0, "identical_images": 2}
    assert quality([GREY, GREY], [GREY, LIGHTER], ["a", "b"])["identical_images"] == 1


def test_ssim_sees_structure_that_a_shift_of_brightness_keeps():
    picture = noise(0)
    brighter = Image.fromarray((np.asarray(picture) // 2 + 100).astype(np.uint8))
    assert ssim([picture], [noise(1)]) < 0.1 < 0.7 < ssim([picture], [brighter]) < 1


def test_ssim_of_constant_pictures_is_the_luminance_term():
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 110 + c1) / (100**2 + 110**2 + c1)
    assert ssim([LIGHTER], [GREY]) == pytest.approx(expected)


@pytest.mark.parametrize("images", [[], [GREY, GREY]])
def test_every_picture_needs_its_reference(images):
    with pytest.raises(ValueError, match="expected equally many"):
        psnr_db(images, [GREY])


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(32, 32, 3\).*\(16, 16, 3\)"):
        psnr_db([noise(0)], [GREY])


def test_further_metrics_add_their_numbers():
    numbers = quality([GREY], [GREY], ["a"], [lambda images, reference, prompts: {"x": prompts}])
    assert numbers["x"] == ["a"]


def test_missing_lpips_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingExtraError, match=r'lpips.*pip install "hart\[lpips\]"'):
        LpipsDistance(tmp_path / "weights.pth")


def test_a_folder_without_clip_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        ClipScore(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        ClipScore(tmp_path)


def test_attribute_accuracy_repeats_the_labels_of_a_prompts_images():
    class Reader:
        def read(self, images):
            level = (127.5 * (images.mean((1, 2, 3)) + 1)).round().long()
            return {"level": level, "lighter": (level > 100).long()}

    labels = {"level": torch.tensor([100, 110]), "lighter": torch.tensor([0, 0])}
    pictures = [GREY, GREY, LIGHTER, GREY]
    measure = AttributeAccuracy(Reader(), labels, images_per_prompt=2)
    numbers = measure(pictures, pictures, [""] * 4)
    assert numbers["attributes"] == {"level": 0.75, "lighter": 0.75}
    assert numbers["attribute_accuracy"] == 0.75
