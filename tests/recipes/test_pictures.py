"""The pictures that the training data is made of: where they come from, and how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hart.demo.concepts import CONCEPTS
from recipes.demo import pictures

NOTICE = Path(__file__).parents[2] / "NOTICE"


def test_the_notice_names_the_package_and_its_version():
    name, version = pictures.PACKAGE.rsplit("@", 1)
    text = " ".join(NOTICE.read_text("utf-8").split())
    assert f"{name}, version {version}" in text
    assert "Copyright (c) Microsoft Corporation" in text


def test_without_npm_the_error_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=pictures.PACKAGE):
        pictures.fetch_pictures(tmp_path / "pictures")


def test_a_picture_is_resized_with_its_colours_times_alpha(tmp_path, monkeypatch):
    assets = tmp_path / "package" / "assets"
    assets.mkdir(parents=True)
    half = np.full((64, 64, 4), (200, 100, 50, 128), np.uint8)
    half[:, :32] = (90, 80, 70, 0)  # what nobody sees
    Image.fromarray(half).save(assets / f"{CONCEPTS[0].code}.webp", lossless=True, exact=True)
    monkeypatch.setattr(pictures, "fetch_pictures", lambda: assets)
    pictures.sprite.cache_clear()
    found = pictures.sprite(CONCEPTS[0].name, 16)
    pictures.sprite.cache_clear()
    assert (found.shape, found.dtype) == ((16, 16, 4), np.float32)
    assert np.abs(found[:, :4]).max() < 0.02
    alpha = 128 / 255
    expected = [alpha * value / 255 for value in (200, 100, 50)]
    assert found[8, 12] == pytest.approx([*expected, alpha], abs=0.01)
