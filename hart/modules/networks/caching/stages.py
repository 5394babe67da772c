"""Stages of a generation and where their transitions sit in a similarity table.

A *stage* is one square token map, named by its token count (``256`` is the 16x16 map) or by its
index ``si`` in the model's schedule. A *transition* leads from one stage to the next; a similarity
table has one column per transition.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from .numbers import plain

TABLE_WIDTH = 15
"""Number of columns in every row of a HART similarity table."""

length2iteration: dict[int, int] = {
    1: 0,
    4: 1,
    9: 2,
    16: 3,
    25: 4,
    49: 6,
    81: 7,
    144: 8,
    256: 9,
    441: 10,
    729: 11,
    1296: 12,
    2304: 13,
    4096: 14,
}
"""Token count of a HART stage -> its iteration number.

Number 5 belongs to the 6x6 map, which HART's schedules do not have. The transition *into* the
stage of ``n`` tokens is table column ``length2iteration[n] - 1``.
"""

next_patch_size: dict[int, int] = dict(pairwise(length2iteration))
"""Token count of a stage -> token count of the next stage of the 1024-pixel schedule.

The last stage, 4096, has no entry.
"""

HART_PATCH_NUMS = tuple(math.isqrt(length) for length in length2iteration)
"""Schedule of the published HART models at 1024 pixels, which a ``.pkl`` table has columns for."""

VAR_PATCH_NUMS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""Schedule of the public VAR models at 256 pixels, whose ``.pt`` tables have nine columns."""

NAMED_SCHEDULES = {"hart-1024": HART_PATCH_NUMS, "var-256": VAR_PATCH_NUMS}


def as_integer(value: object, field: str) -> int:
    """``value`` as a plain ``int``; booleans, floats and text raise ``TypeError``."""
    value = plain(value)
    if isinstance(value, bool):
        raise TypeError(f"{field} must contain integers, got the boolean {value}")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{field} must contain integers, got {value!r} of type {type(value).__name__}"
        ) from None


def format_stages(lengths: Iterable[int]) -> str:
    """Token counts for a message, for example ``2304, 4096``."""
    return ", ".join(map(str, lengths)) or "none"


@dataclass(frozen=True)
class StageSchedule:
    """The stages of one model, as derived from its ``patch_nums``.

    Args:
        patch_nums: side lengths of the token maps, at least two, strictly increasing and positive,
            for example ``(1, 2, 3, 4, 5, 7, 9, 12, 16)``. Any iterable of integers.

    Raises:
        TypeError: a side is not an integer.
        ValueError: fewer than two sides, or not positive and strictly increasing.
    """

    patch_nums: tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.patch_nums, str | bytes) or not isinstance(self.patch_nums, Iterable):
            raise TypeError(f"patch_nums must be a sequence of integers, got {self.patch_nums!r}")
        sides = tuple(as_integer(side, "patch_nums") for side in self.patch_nums)
        if len(sides) < 2:
            raise ValueError(f"patch_nums needs at least two stages, got {sides}")
        if sides[0] < 1 or any(a >= b for a, b in pairwise(sides)):
            raise ValueError(f"patch_nums must be positive and strictly increasing, got {sides}")
        object.__setattr__(self, "patch_nums", sides)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Token count of each stage."""
        return tuple(side * side for side in self.patch_nums)

    @property
    def num_stages(self) -> int:
        return len(self.patch_nums)

    @property
    def num_transitions(self) -> int:
        return self.num_stages - 1

    @property
    def last(self) -> int:
        """Index of the last stage, the only one that may come in chunks."""
        return self.num_stages - 1

    @cached_property
    def is_hart(self) -> bool:
        """Whether every stage is in :data:`length2iteration`, so that its columns apply."""
        return all(length in length2iteration for length in self.lengths)

    @property
    def width(self) -> int:
        """Number of columns in a table row for this schedule.

        15, the width of HART's tables, unless the schedule has more transitions than that.
        Columns that belong to no transition hold 0.
        """
        return max(TABLE_WIDTH, self.num_transitions)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """Table column of each transition; entry ``i`` leads from stage ``i`` to ``i + 1``.

        HART schedules use ``length2iteration[n] - 1`` with ``n`` the tokens of the later stage;
        other schedules count the transitions from 0, as VAR does.
        """
        if self.is_hart:
            return tuple(length2iteration[length] - 1 for length in self.lengths[1:])
        return tuple(range(self.num_transitions))

    @property
    def transitions(self) -> tuple[tuple[int, int], ...]:
        """Token counts ``(before, after)`` of each transition."""
        return tuple(pairwise(self.lengths))

    def column(self, si: int) -> int:
        """Table column of the transition into stage ``si``.

        Raises:
            ValueError: no transition leads into a stage ``si`` of this schedule.
        """
        if not 0 < si < self.num_stages:
            raise ValueError(f"si must be from 1 to {self.num_transitions}, got {si}")
        return self.columns[si - 1]

    def index_of(self, length: int) -> int:
        """Stage index of the map with ``length`` tokens.

        Raises:
            ValueError: no stage has that many tokens.
        """
        if length not in self.lengths:
            raise ValueError(
                f"no stage has {length} tokens; the stages are {format_stages(self.lengths)}"
            )
        return self.lengths.index(length)
