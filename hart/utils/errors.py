"""The error of everything that reads a checkpoint, without the imports of what reads it."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file of a checkpoint is missing, unreadable, or does not fit; the message names it."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's text in one line of at most ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."
