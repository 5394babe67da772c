"""What the fuzz tests feed to the program, and the only ways in which it may refuse it."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.reliability import SHARE


def examples(count: int):
    """Hypothesis settings of one test: ``count`` examples, the same ones on every machine."""
    return settings(
        max_examples=max(1, round(count * SHARE)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


NASTY_TEXTS = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "a\0b",
        "\x1b[2J\x07",
        "\u202eright to left",
        "\u05d0\u05d1 \u0627\u0644",
        "\U0001f98a\U0001f3fd\u200d\U0001f308",
        "\udcff",
        "\ud800",
        "\r\n",
        "../../escape",
        "/etc/passwd",
        "-1",
        "nan",
        "1e999",
        "9" * 5000,
        "x" * 100_000,
        "\U0001f98a" * 100_000,
        "%s%n{0}",
        "<|im_start|>",
    ]
)
TEXTS = st.one_of(NASTY_TEXTS, st.text(max_size=40))
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([2**63, -(2**63), 10**400]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def with_changed_bytes(content: bytes):
    """``content`` cut, lengthened, or with some bytes replaced, mostly near its start."""
    places = st.one_of(st.integers(0, min(200, len(content) - 1)), st.integers(0, len(content) - 1))
    changes = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)
    return st.one_of(
        st.binary(max_size=60),
        st.integers(0, len(content) - 1).map(lambda end: content[:end]),
        changes.map(lambda found: _replaced(content, found)),
        st.binary(min_size=1, max_size=20).map(lambda more: content + more),
    )


def _replaced(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(content)
    for place, value in changes:
        changed[place] = value
    return bytes(changed)


def snapshot(folder: Path, leave_out: str) -> dict[str, tuple[int, int]]:
    """Size and time of every file in ``folder`` but for one of its subfolders."""
    return {
        str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.relative_to(folder).parts[0] != leave_out
    }
