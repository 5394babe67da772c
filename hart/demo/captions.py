"""Natural captions of scenes, with the variety of wording that a prompt may have.

What a caption leaves out has its default: medium size, plain, in the centre.
"""

from __future__ import annotations

import re

import numpy as np

from hart.demo.scene import ATTRIBUTES, NO_COLOUR, Scene, sample_scene

_SIZES = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium", "medium", "medium-sized", ""),
    "large": ("large", "large", "big", "huge"),
}
_CENTRE = ("", "", "in the centre", "in the center", "in the middle")
_CORNER = ("in the {0} corner", "in the {0}", "at the {0}")
_PLAIN = ("", "", "plain", "solid")
_TEXTURE = {
    "stripes": (
        "with {0} stripes",
        "with {0} stripes",
        "striped in {0}",
        "with a {0} stripe pattern",
    ),
    "dots": ("with {0} dots", "with {0} dots", "dotted in {0}", "with {0} spots"),
    "checks": ("with {0} checks", "with {0} checks", "checked in {0}", "with a {0} check pattern"),
}
_BACKGROUND = ("on a {0} background", "on a {0} background", "on {0}", "against a {0} background")
_OPENING = ("", "", "", "", "a picture of ", "an image of ", "a drawing of ")
_ORDERS = (
    "{opening}{thing} {position} {background}",
    "{opening}{thing} {position} {background}",
    "{opening}{thing} {background} {position}",
    "{background} {thing} {position}",
    "{position} {thing} {background}",
)


def canonical_caption(scene: Scene) -> str:
    """The one full caption of a scene: every attribute named, one fixed order."""
    plain = "plain " if scene.texture == "plain" else ""
    thing = f"{plain}{scene.size} {scene.colour} {scene.shape}"
    texture = "" if plain else f" with {scene.texture_colour} {scene.texture}"
    place = "in the centre" if scene.position == "centre" else f"in the {scene.position} corner"
    return _with_articles(f"a {thing}{texture} {place} on a {scene.background} background")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption in randomly chosen words and order, lower case, at most 24 words."""

    def pick(choices: tuple[str, ...]) -> str:
        return choices[int(rng.integers(len(choices)))]

    plain = pick(_PLAIN) if scene.texture == "plain" else ""
    texture = "" if scene.texture == "plain" else pick(_TEXTURE[scene.texture])
    thing = f"a {pick(_SIZES[scene.size])} {plain} {scene.colour} {scene.shape} {texture}"
    position = pick(_CENTRE if scene.position == "centre" else _CORNER)
    text = pick(_ORDERS).format(
        opening=pick(_OPENING),
        thing=thing.format(scene.texture_colour),
        position=position.format(scene.position),
        background=pick(_BACKGROUND).format(scene.background),
    )
    return _with_articles(text)


def all_words() -> list[str]:
    """Every word that a caption can contain, sorted, as :func:`split_words` splits them."""
    phrases = [*_CENTRE, *_CORNER, *_PLAIN, *_BACKGROUND, *_OPENING, "a an"]
    phrases += [p for table in (_SIZES, _TEXTURE) for choices in table.values() for p in choices]
    phrases += [value for values in ATTRIBUTES.values() for value in values if value != NO_COLOUR]
    return sorted({word for phrase in phrases for word in split_words(phrase.replace("{0}", ""))})


def split_words(text: str) -> list[str]:
    """Lower-case words of a caption; a hyphen separates."""
    return re.findall(r"[a-z]+", text.lower())


def corpus(n: int, seed: int) -> list[str]:
    """``n`` captions of training scenes, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [caption(sample_scene(rng), rng) for _ in range(n)]


def _with_articles(text: str) -> str:
    """Close up spaces and turn "a" into "an" before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", " ".join(text.split()))
