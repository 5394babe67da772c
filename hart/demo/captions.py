"""Natural captions of scenes, with the variety of wording that a prompt may have.

What a caption leaves out has its default: medium size, in the centre.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hart.demo.concepts import CONCEPTS
from hart.demo.scene import ATTRIBUTES, Scene, sample_scene

_SIZES = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("", "", "", "medium", "medium-sized"),
    "large": ("large", "large", "big", "huge"),
}
_CENTRE = ("", "", "", "in the centre", "in the center", "in the middle")
_CORNER = ("in the {0} corner", "in the {0}", "at the {0}")
_BACKGROUND = ("on a {0} background", "on a {0} background", "on {0}", "against a {0} background")
_GREY = ("grey", "grey", "gray")
_OPENING = ("", "", "", "", "a picture of ", "an image of ", "a drawing of ", "an emoji of ")
_ORDERS = (
    "{opening}{thing} {position} {background}",
    "{opening}{thing} {position} {background}",
    "{opening}{thing} {background} {position}",
    "{background} {thing} {position}",
    "{position} {thing} {background}",
)
# Where position and background are one phrase.
_JOINED = "{opening}{thing} {0} of a {1} background"
_JOINED_CENTRE = ("in the centre", "in the center", "in the middle")
_JOINED_CORNER = ("at the {0}", "in the {0} corner", "in the {0}")
_JOINED_SHARE = 0.2

NAMES = {concept.name: concept.names for concept in CONCEPTS}

_SHOWN_CHARACTERS = 60


def canonical_caption(scene: Scene) -> str:
    """The one full caption of a scene: every attribute named, one fixed order."""
    place = "in the centre" if scene.position == "centre" else f"in the {scene.position} corner"
    return _with_articles(
        f"a {scene.size} {scene.concept} {place} on a {scene.background} background"
    )


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption in randomly chosen words and order, lower case, at most 24 words."""

    def pick(choices: tuple[str, ...]) -> str:
        return choices[int(rng.integers(len(choices)))]

    opening = pick(_OPENING)
    names = NAMES[scene.concept]
    name = names[0] if rng.random() < 0.5 else pick(names)
    thing = f"a {pick(_SIZES[scene.size])} {name}"
    colour = pick(_GREY) if scene.background == "grey" else scene.background
    centre = scene.position == "centre"
    if rng.random() < _JOINED_SHARE:
        place = pick(_JOINED_CENTRE if centre else _JOINED_CORNER).format(scene.position)
        return _with_articles(_JOINED.format(place, colour, opening=opening, thing=thing))
    text = pick(_ORDERS).format(
        opening=opening,
        thing=thing,
        position=pick(_CENTRE if centre else _CORNER).format(scene.position),
        background=pick(_BACKGROUND).format(colour),
    )
    return _with_articles(text)


def all_words() -> list[str]:
    """Every word that a caption can contain, sorted, as :func:`split_words` splits them."""
    phrases = [*_CENTRE, *_CORNER, *_BACKGROUND, *_OPENING, *_GREY, "a an of"]
    phrases += [p for choices in _SIZES.values() for p in choices]
    phrases += [name for names in NAMES.values() for name in names]
    phrases += [value for values in ATTRIBUTES.values() for value in values]
    return sorted({word for phrase in phrases for word in split_words(phrase.replace("{0}", ""))})


def split_words(text: str) -> list[str]:
    """Lower-case words of a caption; a hyphen separates."""
    return re.findall(r"[a-z]+", text.lower())


def known_concepts(prompt: str) -> list[str]:
    """Names of the concepts that a prompt mentions by any of their names, in table order."""
    text = _spaced(prompt)
    return [name for name, spoken in _SPOKEN.items() if any(words in text for words in spoken)]


def advice(prompts: Sequence[str]) -> list[str]:
    """What to tell whoever asks the demo for things that it does not know.

    Returns nothing if every prompt names a concept, else a line about those that do not, and the
    names of all concepts in another.
    """
    unknown = [prompt for prompt in prompts if not known_concepts(prompt)]
    if not unknown:
        return []
    first, others = unknown[0], len(unknown) - 1
    if len(first) > _SHOWN_CHARACTERS:
        first = f"{first[: _SHOWN_CHARACTERS - 3]}..."
    subject = f"{first!r} and {others} more name" if others else f"{first!r} names"
    return [f"{subject} nothing that the demo knows; it knows:", ", ".join(sorted(NAMES))]


def corpus(n: int, seed: int) -> list[str]:
    """``n`` captions of training scenes, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [caption(sample_scene(rng), rng) for _ in range(n)]


def _spaced(text: str) -> str:
    """The words with a space on either side of each, so that only whole words are found."""
    return f" {' '.join(split_words(text))} "


_SPOKEN = {name: [_spaced(spoken) for spoken in names] for name, names in NAMES.items()}


def _with_articles(text: str) -> str:
    """Close up spaces and turn "a" into "an" before a vowel."""
    return re.sub(r"\ba (?=[aeio]|umb)", "an ", " ".join(text.split()))
