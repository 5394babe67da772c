"""Names of picture files that say what is in them."""

from __future__ import annotations

import argparse
import re

EXAMPLE = "{prompt}-{seed}"
_FIELDS = {"index": 0, "prompt": "a", "seed": 0}
_PROMPT_BYTES = 120  # a file's name has at most 255


def name_template(text: str) -> str:
    """A parser type for templates such as :data:`EXAMPLE`, with formats as in ``{index:06d}``."""
    try:
        name = text.format(**_FIELDS)
    except (LookupError, ValueError, AttributeError, TypeError):
        name = ""
    if not name or name.startswith(".") or re.search(r"[/\\\0]", name):
        fields = ", ".join(f"{{{name}}}" for name in _FIELDS)
        raise argparse.ArgumentTypeError(
            f"expected a file's name made of {fields}, such as {EXAMPLE}, got {text!r}"
        )
    return text


def stem(template: str, index: int, prompt: str | int, seed: int) -> str:
    """The name, without its ending, of one picture."""
    words = re.sub(r"[^\w-]+", "_", str(prompt)).strip("_")
    cut = words.encode("utf-8")[:_PROMPT_BYTES].decode("utf-8", "ignore")
    return template.format(index=index, prompt=cut, seed=seed)
