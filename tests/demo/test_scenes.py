"""The demo's scenes and captions say what their labels say, and prompts what it knows of them."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from hart.demo.captions import (
    NAMES,
    advice,
    all_words,
    canonical_caption,
    caption,
    corpus,
    known_concepts,
    split_words,
)
from hart.demo.concepts import CONCEPTS
from hart.demo.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    POSITIONS,
    SIZES,
    Scene,
    is_held_out,
    sample_scene,
)


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


def test_the_full_caption_names_every_attribute():
    scene = Scene("umbrella", "grey", "large", "top left")
    assert canonical_caption(scene) == (
        "a large umbrella in the top left corner on a grey background"
    )
    assert canonical_caption(Scene("owl", "red")) == (
        "a medium owl in the centre on a red background"
    )


def test_known_concepts_are_found_by_any_of_their_names():
    assert known_concepts("A Big DONUT beside a fox") == ["fox", "doughnut"]
    assert known_concepts("a foxtrot of submarines") == []


def test_every_caption_names_its_concept_so_nothing_is_to_be_advised():
    assert advice(corpus(300, seed=2)) == []


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        (["a fox", "a submarine"], "'a submarine' names"),
        (
            ["two\nfoxes", "?"],
            r"'two\nfoxes' and 1 more name",
        ),
        (["red " * 99], f"'{'red ' * 14}r...' names"),
    ],
)
def test_advice_names_the_prompt_in_one_line_and_all_concepts_in_another(prompts, told):
    line, names = advice(prompts)
    assert line == f"{told} nothing that the demo knows; it knows:"
    assert names.split(", ") == sorted(ATTRIBUTES["concept"])
