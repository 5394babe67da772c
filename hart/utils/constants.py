"""Fixed texts and limits."""

from __future__ import annotations

import hashlib

max_seq_len = 10240
max_batch_size = 16

default_prompts = [
    "A lighthouse on a basalt cliff at dusk, long exposure, violet clouds over a calm sea.",
    "Portrait of an elderly clockmaker lit by a single desk lamp, gears in sharp focus.",
    "A paper-cut diorama of a mountain village in winter, layered blue card, soft shadows.",
    "A hummingbird drinking from a glass orchid, macro photograph, dark green background.",
    "An empty tram in Lisbon at sunrise, wet cobblestones, watercolour with loose brushwork.",
    "A bowl of ramen seen from above on a worn oak table, steam catching the window light.",
    "A robot gardener pruning roses in a ruined greenhouse, ivy and broken panes, oil painting.",
    "Isometric view of a tiny bookshop cut open like a doll's house, pastel colours.",
    "A fox asleep inside a hollow tree while snow falls outside, children's book illustration.",
    "A desert observatory under the Milky Way, telescope dome open, red guide lights.",
    "Still life of three pears and a pewter jug, chiaroscuro, in the manner of the Dutch masters.",
    "An astronaut playing a cello on the surface of the moon, Earth low on the horizon.",
]

llm_system_prompt = """\
Rewrite the user's text as one rich description of a picture. Keep every subject that the user \
names, then add what the eye would see: materials, colours, light, viewpoint, surroundings, style.

Example 1
User Prompt: a dog on a beach
Enhanced Prompt: A shaggy brown dog trots along a wide, wet beach at low tide, its paw prints \
filling with silver water under a pale morning sky, photographed from close to the ground.

Example 2
User Prompt: old library
Enhanced Prompt: A hushed library with ladders on brass rails and shelves of cracked leather \
spines, dust floating in amber light that falls from one tall arched window.

Enhance the following text in the same way.
User Prompt:
"""

hart_system_prompt_sha256 = "424f7aa7b1119f8ed1e329140e5941dfe308183bea0af59041dad5527a9b8f20"


def is_hart_system_prompt(text: str) -> bool:
    """Whether ``text`` is, byte for byte, the instruction that HART was trained with."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest() == hart_system_prompt_sha256
