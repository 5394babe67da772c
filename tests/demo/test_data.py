"""The demo's procedural pictures and captions say what their labels say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hart.demo.captions import all_words, canonical_caption, corpus, split_words
from hart.demo.data import render_batch
from hart.demo.render import RADIUS, RGB, render
from hart.demo.scene import (
    ATTRIBUTES,
    COLOURS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    is_held_out,
    sample_scene,
)


def test_same_seed_gives_the_same_batch_and_another_seed_does_not():
    first, again, other = (render_batch(seed, 4) for seed in (7, 7, 8))
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert first.scenes == again.scenes
    assert not torch.equal(first.images, other.images)


def test_a_generator_is_advanced_by_each_batch():
    rng = np.random.default_rng(0)
    assert render_batch(rng, 2).captions != render_batch(rng, 2).captions


def test_images_are_finite_rgb_in_the_model_range_at_any_resolution():
    for resolution in (48, 128):
        images = render_batch(0, 20, resolution=resolution).images
        assert images.shape == (20, 3, resolution, resolution)
        assert images.dtype == torch.float32
        assert torch.isfinite(images).all()
        assert images.min() >= -1
        assert images.max() <= 1


def test_labels_index_the_attribute_values_of_the_scenes():
    batch = render_batch(3, 12)
    for name, values in ATTRIBUTES.items():
        assert batch.labels[name].dtype == torch.int64
        assert [values[i] for i in batch.labels[name]] == [getattr(s, name) for s in batch.scenes]


def test_held_out_share_is_about_a_tenth_and_every_value_is_trained_on():
    triples = [(s, c, b) for s, c, b in itertools.product(SHAPES, COLOURS, COLOURS) if c != b]
    trained = [t for t in triples if not is_held_out(Scene(*t))]
    assert 0.06 < 1 - len(trained) / len(triples) < 0.14
    for column, values in zip(zip(*trained, strict=True), (SHAPES, COLOURS, COLOURS), strict=True):
        assert set(column) == set(values)


def test_held_out_choice_is_stable_and_blind_to_the_other_attributes():
    assert is_held_out(Scene("circle", "red", "green")) == is_held_out(
        Scene("circle", "red", "green", "small", "top left", "dots", "white")
    )
    held_out = [shape for shape in SHAPES if is_held_out(Scene(shape, "red", "blue"))]
    assert held_out == ["square", "triangle", "ring"]  # a moved split would leak into training


@pytest.mark.parametrize("held_out", [False, True])
def test_sampling_and_batches_keep_to_their_side_of_the_split(held_out):
    rng = np.random.default_rng(0)
    assert all(is_held_out(sample_scene(rng, held_out)) == held_out for _ in range(200))
    assert all(is_held_out(s) == held_out for s in render_batch(0, 8, held_out).scenes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"shape": "blob"}, "shape"),
        ({"background": "red"}, "background"),
        ({"texture": "dots"}, "texture_colour"),
        ({"texture_colour": "white"}, "texture_colour"),
        ({"texture": "dots", "texture_colour": "red"}, "texture_colour"),
        ({"texture": "dots", "texture_colour": "blue"}, "texture_colour"),
    ],
)
def test_scenes_that_cannot_be_drawn_truthfully_are_refused(changes, field):
    with pytest.raises(ValueError, match=field):
        Scene(**{"shape": "circle", "colour": "red", "background": "blue"} | changes)


@pytest.mark.parametrize(("kwargs", "field"), [({"n": 0}, "n is 0"), ({"resolution": 4}, "resol")])
def test_impossible_batches_are_refused(kwargs, field):
    with pytest.raises(ValueError, match=field):
        render_batch(0, **{"n": 1} | kwargs)


def draw(*scenes: Scene) -> torch.Tensor:
    """Pictures in [0, 1]."""
    return (render(scenes, np.random.default_rng(0)) + 1) / 2


def shape_pixels(image: torch.Tensor) -> torch.Tensor:
    """Where a plain white shape lies on a black background, (H, W)."""
    return image.mean(0) > 0.6


def test_shape_and_background_show_the_colours_they_are_named_after():
    for colour, background in itertools.permutations(COLOURS, 2):
        image = draw(Scene("circle", colour, background, "large"))[0]
        middle, corner = image[:, 56:72, 56:72].mean((1, 2)), image[:, :12, :12].mean((1, 2))
        assert nearest_colour(middle) == colour
        assert nearest_colour(corner) == background


def nearest_colour(rgb: torch.Tensor) -> str:
    return min(COLOURS, key=lambda name: float((rgb - torch.tensor(RGB[name])).norm()))


@pytest.mark.parametrize("shape", SHAPES)
def test_each_size_fits_in_every_corner_and_grows_with_its_name(shape):
    for position in POSITIONS:
        pictures = draw(*(Scene(shape, "white", "black", size, position) for size in SIZES))
        masks = [shape_pixels(image) for image in pictures]
        border = torch.ones(128, 128, dtype=torch.bool)
        border[1:-1, 1:-1] = False
        assert not any(bool((mask & border).any()) for mask in masks)
        areas = [int(mask.sum()) for mask in masks]
        assert 1.4 * areas[0] < areas[1] < areas[2] / 1.4


def test_position_puts_the_shape_into_the_named_quarter():
    for position in POSITIONS[1:]:
        mask = shape_pixels(draw(Scene("circle", "white", "black", "large", position))[0])
        rows, columns = (where.float().mean() for where in mask.nonzero(as_tuple=True))
        assert ("top" in position) == (rows < 50)
        assert ("bottom" in position) == (rows > 78)
        assert ("left" in position) == (columns < 50)
        assert ("right" in position) == (columns > 78)


@pytest.mark.parametrize("shape", SHAPES)
def test_texture_shows_even_on_the_smallest_shape(shape):
    for texture in TEXTURES[1:]:
        image = draw(Scene(shape, "red", "blue", "small", "centre", texture, "white"))[0]
        assert int((image[1] > 0.7).sum()) > 20  # only white has this much green


def test_shapes_are_told_apart_by_their_outline():
    scenes = [Scene(shape, "white", "black", "small") for shape in SHAPES]
    masks = [shape_pixels(render([s], np.random.default_rng(0))[0] / 2 + 0.5) for s in scenes]
    for one, other in itertools.combinations(masks, 2):
        assert (one ^ other).sum() > 0.15 * RADIUS["small"] ** 2


def test_pictures_do_not_repeat_exactly():
    one, other = draw(*[Scene("circle", "red", "blue")] * 2)
    assert not torch.equal(one, other)


def test_captions_are_short_varied_and_known_words():
    captions = corpus(2000, seed=0)
    assert captions == corpus(2000, seed=0)
    assert len(set(captions)) > 1900
    assert max(len(split_words(c)) for c in captions) <= 24
    assert {word for c in captions for word in split_words(c)} == set(all_words())


def test_captions_never_contradict_the_scene():
    batch = render_batch(11, 300)
    for scene, text in zip(batch.scenes, batch.captions, strict=True):
        words = set(split_words(text))
        assert words & set(SHAPES) == {scene.shape}
        named = {scene.colour, scene.background, scene.texture_colour} - {"none"}
        assert words & set(COLOURS) == named
        corner = set(scene.position.split()) - {"centre"}
        assert words & {"top", "bottom", "left", "right"} == corner
        synonym = {"small": {"small", "little", "tiny"}, "large": {"large", "big", "huge"}}
        other = {"small": "large", "large": "small"}
        assert scene.size == "medium" or words & synonym[scene.size]
        assert scene.size == "medium" or not words & synonym[other[scene.size]]


def test_canonical_caption_reads_as_documented():
    striped = Scene("star", "red", "green", "small", "top left", "stripes", "white")
    plain = Scene("circle", "orange", "yellow")
    assert canonical_caption(striped) == (
        "a small red star with white stripes in the top left corner on a green background"
    )
    assert canonical_caption(plain) == (
        "a plain medium orange circle in the centre on a yellow background"
    )


def test_article_agrees_with_the_next_word():
    for text in corpus(500, seed=1):
        words = text.split()
        for article, following in itertools.pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou")
