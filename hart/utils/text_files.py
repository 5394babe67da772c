"""Text that people wrote: what a file's encoding is, where its lines end, what is no text."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from hart.utils.files import read_limited

MAX_TEXT_BYTES = 64 * 2**20
MAX_LINES = 1_000_000
MAX_CHARACTERS = 2**17
"""Of a line."""
MAX_LINE_BYTES = 4 * MAX_CHARACTERS

_UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SAMPLE_BYTES = 2**16


@dataclass(frozen=True)
class Text:
    """A text's lines, of which some may turn out to be none.

    Attributes:
        name: what messages call it.
        content: UTF-8, but for what is wrong with the file.
        encoding: what it was.
    """

    name: str
    content: bytes
    encoding: str = "UTF-8"

    @classmethod
    def of_file(cls, file: Path, max_bytes: int = MAX_TEXT_BYTES) -> Text:
        """Read UTF-8, with or without its mark, or UTF-16 with one.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a regular file, too large, or in another encoding.
        """
        raw = read_limited(file, max_bytes)
        if raw.startswith(_UTF32_MARKS):
            raise ValueError(f"{file}: UTF-32 text; save it as UTF-8")
        if raw.startswith(_UTF16_MARKS):
            if len(raw) % 2:
                raise ValueError(f"{file}: UTF-16 text that ends within a character")
            text = raw.decode("utf-16", "surrogatepass")
            return cls(str(file), text.encode("utf-8", "surrogatepass"), "UTF-16")
        if _looks_like_utf16(raw):
            raise ValueError(
                f"{file}: this seems to be UTF-16 text without a byte order mark; save it as UTF-8"
            )
        return cls(str(file), raw.removeprefix(codecs.BOM_UTF8))

    @classmethod
    def of(cls, text: str) -> Text:
        """A text that is there already."""
        return cls("the text", text.encode("utf-8", "surrogatepass"))

    def lines(self, keep_ends: bool = False) -> list[bytes]:
        r"""Its lines; ``\n``, ``\r\n`` and ``\r`` end one, and nothing else does.

        ``bytes.splitlines`` knows these three; ``str.splitlines`` takes eight characters more.

        Raises:
            ValueError: there are more than :data:`MAX_LINES`.
        """
        if max(self.content.count(b"\n"), self.content.count(b"\r")) > MAX_LINES:
            raise ValueError(f"{self.name}: more than {MAX_LINES} lines; split it")
        return self.content.splitlines(keep_ends)

    def decoded(self, line: bytes) -> str:
        """The text of one of its lines; ValueError if it is none, has a control character or is
        too long."""
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"the line has more than {MAX_CHARACTERS} characters")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(self._no_text(error)) from None
        if len(text.rstrip("\r\n")) > MAX_CHARACTERS:
            raise ValueError(f"the line has more than {MAX_CHARACTERS} characters")
        refuse_control_characters(text)
        return text

    def whole(self) -> str:
        """All of it; ValueError names a line that is no text or has a control character."""
        try:
            text = self.content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = line_at(self.content[: error.start].decode("utf-8"), error.start)
            raise ValueError(f"{self.name}, line {line}: {self._no_text(error)}") from None
        found = _CONTROL.search(text)
        if found:
            line = line_at(text, found.start())
            raise ValueError(f"{self.name}, line {line}: {_named(found.group())}")
        return text

    def _no_text(self, error: UnicodeDecodeError) -> str:
        return f"not {self.encoding} text ({error.reason} at byte {error.start})"


def read_text(file: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """A file's whole text, character for character but for a byte order mark.

    Raises:
        ValueError: not a regular file, too large, no text, or with a control character.
        OSError: it cannot be read.
    """
    return Text.of_file(file, max_bytes).whole()


def split_lines(text: str) -> list[str]:
    """A text's lines without their ends, which are those of :meth:`Text.lines`."""
    return [line.decode("utf-8", "surrogatepass") for line in Text.of(text).lines()]


def line_at(text: str, position: int) -> int:
    """Number, from 1, of the line that a position in a text is on."""
    before = text[:position]
    return 1 + before.count("\n") + before.count("\r") - before.count("\r\n")


def has_control_characters(text: str) -> bool:
    """Whether there is one beside tabs and ends of lines."""
    return _CONTROL.search(text) is not None


def refuse_control_characters(text: str) -> None:
    """Raise ValueError if there is a control character beside tabs and ends of lines."""
    found = _CONTROL.search(text)
    if found:
        raise ValueError(_named(found.group()))


def _named(character: str) -> str:
    return f"control character U+{ord(character):04X}"


def _looks_like_utf16(raw: bytes) -> bool:
    """Whether zero bytes are only first, or only second, halves, and of most spaces.

    A stray one in UTF-8 text is seldom beside a space or an end of a line, and never beside most.
    """
    sample = raw[:_SAMPLE_BYTES]
    first, second = sample[0::2].count(0), sample[1::2].count(0)
    if len(raw) % 2 or bool(first) == bool(second):
        return False
    text = sample.decode("utf-16-be" if first else "utf-16-le", "replace")
    spaces = sum(map(sample.count, (b" ", b"\n", b"\r")))
    wide = sum(map(text.count, " \n\r"))
    return 4 * wide >= 3 * spaces if spaces else 4 * (first + second) >= len(sample)
