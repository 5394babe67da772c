"""The residual stream of one stage: whose rows, which tokens, in which pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from hart.modules.networks.caching.interpolate import select_positions
from hart.modules.networks.rope import MaskIndex

TOKENS_AT_ONCE = 1024
"""Rows times tokens of a piece on a CPU; bounds the memory of the MLP's wide layer."""

Modulation = tuple[torch.Tensor | None, ...]
"""gamma1, gamma2, 1 + scale1, 1 + scale2, shift1, shift2, (r, 1, C) each or None."""

Tables = tuple[torch.Tensor, torch.Tensor]
"""Rotary cosines and sines (r, n, d), the sines of the first half negative."""


@dataclass
class Stream:
    """The residual stream of some rows of the batch during one stage.

    Attributes:
        x: (r, n, C), changed in place.
        rows: which rows of the batch the r rows stand for.
        modulation: per layer.
        tables: None without rotary positions.
        tokens: length of the stage; more than n where one token stands for all.
        si: index of the stage.
        m_maskgit: which positions of the stage's map these are, None for all of them.
        is_text: the first stage as a text, whose last position is the 1x1 map.
    """

    x: torch.Tensor
    rows: slice
    modulation: list[Modulation]
    tables: Tables | None
    tokens: int
    si: int
    m_maskgit: MaskIndex | None = None
    is_text: bool = False

    def gamma(self, module: int) -> torch.Tensor | None:
        """The factor (r, 1, C) of a module's output, None in plain blocks."""
        return self.modulation[module // 2][module % 2]

    def pieces(self) -> Iterator[slice]:
        """Slices of the token axis that cover it."""
        n = self.x.shape[1]
        size = n
        if self.x.device.type == "cpu":
            size = max(1, TOKENS_AT_ONCE // self.x.shape[0])
        for start in range(0, n, size):
            yield slice(start, min(n, start + size))

    def of_rows(self, rows: slice, bsz: int) -> Stream:
        """Some rows alone; ``rows`` of one image stand for those of all ``bsz``."""
        return replace(
            self,
            x=self.x[rows].clone(),
            rows=slice(rows.start, rows.start + bsz),
            modulation=[_of_rows(layer, rows) for layer in self.modulation],
            tables=_of_tables(self.tables, lambda t: t if len(t) == 1 else t[rows]),
        )

    def last_token(self) -> Stream:
        """The last token alone, which stands for all where they are equal."""
        tables = _of_tables(self.tables, lambda table: table[:, -1:])
        return replace(self, x=self.x[:, -1:].clone(), tables=tables)

    def select(self, index: torch.Tensor) -> Stream:
        """Some tokens of every row, ``index`` (r, n), as a stage of their own."""
        rows = len(index)
        tables = _of_tables(
            self.tables, lambda table: select_positions(table.expand(rows, -1, -1), index)
        )
        x = select_positions(self.x, index)
        return replace(self, x=x, tables=tables, tokens=x.shape[1])


def _of_tables(
    tables: Tables | None, change: Callable[[torch.Tensor], torch.Tensor]
) -> Tables | None:
    return None if tables is None else (change(tables[0]), change(tables[1]))


def keep_rows(modulation: list[Modulation], rows: int) -> list[Modulation]:
    """The modulation of the first rows of the batch."""
    return [_of_rows(layer, slice(rows)) for layer in modulation]


def _of_rows(tensors: tuple, rows: slice) -> tuple:
    """Some rows of every tensor; one row stands for the whole batch and stays."""
    return tuple(t if t is None or len(t) == 1 else t[rows] for t in tensors)
