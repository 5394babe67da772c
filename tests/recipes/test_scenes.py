"""The new demo's scenes, captions and pictures say what their labels say."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

from recipes.demo.captions import NAMES, all_words, caption, corpus, known_concepts, split_words
from recipes.demo.concepts import CONCEPTS
from recipes.demo.render import RGB, corner_of, render
from recipes.demo.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    POSITIONS,
    SIZES,
    Scene,
    is_held_out,
    sample_scene,
)

THING = (0.0, 0.0, 0.0)


@pytest.fixture(autouse=True)
def black_squares(monkeypatch):
    """Opaque black boxes in place of the package's pictures."""

    def sprite(name: str, side: int) -> np.ndarray:
        return np.broadcast_to(np.float32([*THING, 1.0]), (side, side, 4))

    monkeypatch.setattr("recipes.demo.render.sprite", sprite)


def draw(*scenes: Scene, resolution: int = 72) -> torch.Tensor:
    """Pictures in [0, 1]."""
    return (render(list(scenes), np.random.default_rng(0), resolution) + 1) / 2


def test_there_are_enough_concepts_and_no_name_stands_for_two():
    assert len(CONCEPTS) >= 64
    names = [name for concept in CONCEPTS for name in concept.names]
    assert len(set(names)) == len(names)
    assert len({concept.code for concept in CONCEPTS}) == len(CONCEPTS)


def test_held_out_share_is_about_a_tenth_and_every_value_is_trained_on():
    combinations = list(itertools.product(ATTRIBUTES["concept"], BACKGROUNDS, POSITIONS))
    trained = [c for c in combinations if not is_held_out(Scene(c[0], c[1], "small", c[2]))]
    assert 0.08 < 1 - len(trained) / len(combinations) < 0.12
    for column, values in zip(
        zip(*trained, strict=True), (ATTRIBUTES["concept"], BACKGROUNDS, POSITIONS), strict=True
    ):
        assert set(column) == set(values)


def test_held_out_choice_is_stable_and_blind_to_the_size():
    assert len({is_held_out(Scene("fox", "blue", size, "centre")) for size in SIZES}) == 1
    held_out = [name for name in ATTRIBUTES["concept"] if is_held_out(Scene(name, "blue"))]
    assert held_out == ["penguin", "ladybug", "apple", "banana", "birthday cake"]


@pytest.mark.parametrize("field", list(ATTRIBUTES))
def test_unknown_values_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} is 'blob'"):
        Scene(**{"concept": "fox", "background": "blue"} | {field: "blob"})


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


def test_pictures_do_not_repeat_exactly_but_with_the_same_seed():
    one, other = draw(*[Scene("fox", "blue")] * 2)
    assert not one.equal(other)
    assert draw(Scene("fox", "blue")).equal(draw(Scene("fox", "blue")))


def test_captions_are_short_varied_and_of_known_words():
    captions = corpus(4000, seed=0)
    assert captions == corpus(4000, seed=0)
    assert len(set(captions)) > 3700
    assert max(len(split_words(text)) for text in captions) <= 24
    assert {word for text in captions for word in split_words(text)} <= set(all_words())


def test_captions_never_contradict_the_scene():
    rng = np.random.default_rng(0)
    synonyms = {"small": {"small", "little", "tiny"}, "large": {"large", "big", "huge"}}
    for _ in range(500):
        scene = sample_scene(rng)
        text = caption(scene, rng)
        words = set(split_words(text))
        assert any(name in text for name in NAMES[scene.concept])
        assert words & {scene.background, "gray" if scene.background == "grey" else "-"}
        corner = set(scene.position.split()) - {"centre"}
        assert words & {"top", "bottom", "left", "right"} == corner
        for size, said in synonyms.items():
            assert bool(words & said) == (scene.size == size)


def test_article_agrees_with_the_next_word():
    for text in corpus(1500, seed=1):
        for article, following in re.findall(r"\b(an?) (\w+)", text):
            expected = following[0] in "aeio" or following.startswith("umb")
            assert (article == "an") == expected, text


def test_known_concepts_are_found_by_any_of_their_names():
    assert known_concepts("A Big DONUT beside a fox") == ["fox", "doughnut"]
    assert known_concepts("a foxtrot of submarines") == []


def test_corners_keep_their_distance_from_the_edge():
    assert corner_of(Scene("fox", "blue", "small", "top left"), 288) == (9, 9)
