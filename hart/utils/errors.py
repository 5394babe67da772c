"""The error of everything that reads a checkpoint, without the imports of what reads it."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file of a checkpoint is missing, unreadable, or does not fit; the message names it."""


def shortened(text: str, limit: int = 300) -> str:
    """At most ``limit`` characters of a text, and dots where there were more."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def one_line(message: object, limit: int = 300) -> str:
    """A message's, or exception's, text in one line of at most ``limit`` characters."""
    return shortened(" ".join(str(message).split()) or type(message).__name__, limit)


def shown(value: object, limit: int = 60) -> str:
    """``repr`` of a value from a file, for a message."""
    try:
        return shortened(repr(value), limit)
    except ValueError:  # an integer of thousands of digits
        return f"a huge {type(value).__name__}"
