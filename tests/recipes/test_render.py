"""The demo's pictures show what their scenes say; batches have captions and labels to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hart.demo.scene import ATTRIBUTES, BACKGROUNDS, POSITIONS, SIZES, Scene, is_held_out
from recipes.demo.data import render_batch
from recipes.demo.evaluate import RENDER_SEED, reconstruction_psnr
from recipes.demo.render import RGB, corner_of, render

THING = (0.0, 0.0, 0.0)


@pytest.fixture(autouse=True)
def black_squares(monkeypatch):
    """Opaque black boxes in place of the package's pictures."""

    def sprite(name: str, side: int) -> np.ndarray:
        return np.broadcast_to(np.float32([*THING, 1.0]), (side, side, 4))

    monkeypatch.setattr("recipes.demo.render.sprite", sprite)


def draw(*scenes: Scene, resolution: int = 72) -> torch.Tensor:
    """Pictures in [0, 1]."""
    return (render(list(scenes), resolution) + 1) / 2


@pytest.mark.parametrize("size", SIZES)
def test_things_lie_inside_the_picture_at_the_named_place(size):
    for position in POSITIONS:
        image = draw(Scene("fox", "yellow", size, position))[0]
        rows, columns = ((image.amax(0) < 0.05).nonzero(as_tuple=True)[k].float() for k in (0, 1))
        assert rows.min() > 0
        assert rows.max() < 71
        assert columns.min() > 0
        assert columns.max() < 71
        middle = (rows.mean().item(), columns.mean().item())
        where = position.split() if position != "centre" else ("middle", "middle")
        for value, low, high in zip(middle, ("top", "left"), ("bottom", "right"), strict=True):
            assert (low in where) == (value < 34)
            assert (high in where) == (value > 37)


def test_sizes_grow_with_their_names():
    areas = [(draw(Scene("fox", "pink", s)).amax(1) < 0.05).sum().item() for s in SIZES]
    assert 1.5 * areas[0] < areas[1] < areas[2] / 1.5


def test_every_background_is_nearest_to_the_colour_it_is_named_after():
    rgb = {name: torch.tensor(value) / 255 for name, value in RGB.items()}
    for background in BACKGROUNDS:
        corner = draw(Scene("fox", background, "small"))[0, :, :9, :9].mean((1, 2))
        assert min(rgb, key=lambda name: float((corner - rgb[name]).norm())) == background


def test_the_light_comes_from_the_upper_left():
    brightness = draw(Scene("fox", "blue", "small"))[0].mean(0)
    assert brightness[0, 0] > brightness[0, -1] > brightness[-1, -1]


def test_corners_keep_their_distance_from_the_edge():
    assert corner_of(Scene("fox", "blue", "small", "top left"), 288) == (9, 9)


def test_the_same_seed_gives_the_same_batch_and_a_generator_is_advanced():
    rng = np.random.default_rng(7)
    first, again, other = (render_batch(seed, 4, resolution=36) for seed in (7, rng, rng))
    assert first.images.equal(again.images)
    assert first.captions == again.captions != other.captions
    assert first.images.shape == (4, 3, 36, 36)


@pytest.mark.parametrize("held_out", [False, True])
def test_batches_keep_to_their_side_of_the_split_and_are_labelled(held_out):
    batch = render_batch(3, 12, held_out, resolution=36)
    assert {is_held_out(scene) for scene in batch.scenes} == {held_out}
    for name, values in ATTRIBUTES.items():
        assert [values[i] for i in batch.labels[name]] == [getattr(s, name) for s in batch.scenes]


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="n is 0"):
        render_batch(0, 0)


def test_the_psnr_of_a_tokenizer_is_that_of_its_error():
    def vae(images, ret_usages):
        return {"out": images * 0.98}

    batch = render_batch(RENDER_SEED, 2, held_out=True).images
    expected = -10 * (batch * 0.01).square().mean(dim=(1, 2, 3)).log10()
    assert reconstruction_psnr(vae, 2) == pytest.approx(expected.mean().item(), rel=1e-4)
