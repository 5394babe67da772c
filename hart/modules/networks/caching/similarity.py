"""Measured similarities between a module's outputs at neighbouring stages."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .stages import StageSchedule

Table = list[list[float]]
"""``depth`` rows of ``StageSchedule.width`` floats; 0 where nothing has been measured."""


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Mean over batch and tokens of the cosine over channels, computed in float32.

    Args:
        a, b: ``(B, L, C)``, any float dtype, same shape.

    Returns:
        float32 scalar tensor in [-1, 1] on the inputs' device.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes must be equal, got {tuple(a.shape)} and {tuple(b.shape)}")
    return F.cosine_similarity(a.float(), b.float(), dim=-1).mean().clamp(-1.0, 1.0)


class SimilarityRecorder(list):
    """One generation's measurements for one site, in the shape of a similarity table.

    A list of ``depth`` rows of ``width`` floats, so that a calibrating model passes it to its
    blocks where it otherwise passes the table. Measurements stay on their device until
    :meth:`finish`, so that recording does not make the host wait.

    Args:
        depth: number of blocks.
        width: number of columns, ``StageSchedule.width``.
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__([0.0] * width for _ in range(depth))
        self._pending: list[tuple[int, int, Tensor, float]] = []

    def record(self, layer: int, column: int, similarity: Tensor, weight: float = 1.0) -> None:
        """Note one measurement.

        Args:
            layer: block index.
            column: table column of the transition, ``StageSchedule.column(si)``.
            similarity: scalar tensor, from :func:`cosine_similarity`.
            weight: number of tokens behind it; a stage predicted in chunks is measured once per
                chunk and its entry is the weighted mean.
        """
        self._pending.append((layer, column, similarity.detach(), weight))

    @property
    def measured_layers(self) -> set[int]:
        """Blocks of which something was noted since the last :meth:`finish`."""
        return {layer for layer, *_ in self._pending}

    def finish(self) -> Table:
        """Average what was recorded, write it into the rows and return a plain copy of them.

        Entries that were not measured are 0.
        """
        if self._pending:
            device = self._pending[0][2].device
            values = torch.stack([entry[2].to(device).float() for entry in self._pending]).tolist()
            sums: dict[tuple[int, int], tuple[float, float]] = {}
            for (layer, column, _, weight), value in zip(self._pending, values, strict=True):
                total, weights = sums.get((layer, column), (0.0, 0.0))
                sums[layer, column] = (total + value * weight, weights + weight)
            for (layer, column), (total, weights) in sums.items():
                self[layer][column] = _clamped(total / weights)
            self._pending.clear()
        return [list(row) for row in self]


@dataclass
class SimilarityTables:
    """Calibrated similarities of both sites.

    Attributes:
        attn: table of the attention outputs, ``depth`` rows; see :data:`Table`.
        mlp: table of the feed-forward outputs.
        images: number of images that the entries average over, 0 if unknown.
        assumed: whether the entries were never measured; then no image adapts its threshold to
            them.
    """

    attn: Table
    mlp: Table
    images: int = 0
    assumed: bool = False

    @classmethod
    def empty(cls, depth: int, schedule: StageSchedule) -> SimilarityTables:
        """Tables without measurements: nothing exceeds a threshold, so everything computes."""
        attn, mlp = ([[0.0] * schedule.width for _ in range(depth)] for _ in range(2))
        return cls(attn, mlp)

    def site(self, name: str) -> Table:
        """The table of ``"attn"`` or ``"mlp"``."""
        if name not in ("attn", "mlp"):
            raise ValueError(f"site must be attn or mlp, got {name!r}")
        return self.attn if name == "attn" else self.mlp

    @property
    def depth(self) -> int:
        return len(self.attn)

    @property
    def is_empty(self) -> bool:
        """Whether no entry of either table has been measured."""
        return not any(value for table in (self.attn, self.mlp) for row in table for value in row)

    def merge(self, attn_measured: Table, mlp_measured: Table, images: int = 1) -> None:
        """Include the measurements of one generation in the running mean.

        ``(new * b + old * n) / (n + b)``, with ``n`` images seen so far and ``b`` in this
        generation. An entry of 0 counts as not measured on either side: a transition that a
        generation did not reach keeps its mean, one seen for the first time takes the new value.

        Args:
            attn_measured, mlp_measured: tables of the same shape, from
                :meth:`SimilarityRecorder.finish`.
            images: number of images ``b`` in the generation.

        Raises:
            ValueError: ``images`` is not positive, or a table has another shape or an entry that
                is not a similarity. The tables are unchanged then.
        """
        if images < 1:
            raise ValueError(f"images must be positive, got {images}")
        width = len(self.attn[0]) if self.attn else 0
        validate_table(attn_measured, self.depth, width, "measured attn table")
        validate_table(mlp_measured, self.depth, width, "measured mlp table")
        self.attn = self._averaged(self.attn, attn_measured, images)
        self.mlp = self._averaged(self.mlp, mlp_measured, images)
        self.images += images
        self.assumed = False

    def including(
        self, recorders: Mapping[str, SimilarityRecorder], images: int
    ) -> SimilarityTables:
        """New tables that :meth:`merge` the measurements of one generation; these stay as they are.

        Args:
            recorders: of both sites, by ``"attn"`` and ``"mlp"``.
            images: number of images in the generation.

        Raises:
            RuntimeError: no module was measured.

        Warns:
            UserWarning: some blocks were not measured.
        """
        layers: list[set[int]] = [recorder.measured_layers for recorder in recorders.values()]
        if not any(layers):
            raise RuntimeError(
                "the calibration measured nothing: no block passed on what its attention or MLP "
                "put out, or there was one stage only; its images are not counted"
            )
        missing = [n for n in range(self.depth) if not all(n in measured for measured in layers)]
        if missing:
            warnings.warn(f"blocks {missing} were not measured and reuse nothing", stacklevel=5)
        merged = replace(self)
        merged.merge(recorders["attn"].finish(), recorders["mlp"].finish(), images)
        return merged

    def _averaged(self, old: Table, new: Table, images: int) -> Table:
        def mean(before: float, now: float) -> float:
            if before == 0.0 or now == 0.0:
                return before or now
            total = self.images + images
            return _clamped((now * images + before * self.images) / total)

        return [list(map(mean, *rows)) for rows in zip(old, new, strict=True)]

    def validate(self, depth: int, schedule: StageSchedule) -> None:
        """Check that both tables fit a model.

        Raises:
            ValueError: depth or width differ, or an entry is not a similarity.
        """
        for name in ("attn", "mlp"):
            validate_table(self.site(name), depth, schedule.width, f"{name} table")


def validate_table(table: Any, depth: int, width: int, name: str) -> None:
    """Check that ``table`` is ``depth`` rows of ``width`` finite numbers within [-1, 1].

    Raises:
        ValueError: it is not; the message says where, what was expected and what was found.
    """
    if not _is_sequence(table) or len(table) != depth:
        raise ValueError(f"{name}: expected {depth} rows (blocks), found {_size(table)}")
    for layer, row in enumerate(table):
        if not _is_sequence(row) or len(row) != width:
            raise ValueError(f"{name}, row {layer}: expected {width} columns, found {_size(row)}")
        for column, value in enumerate(row):
            if not is_similarity(value):
                raise ValueError(
                    f"{name}, row {layer}, column {column}: expected a number within [-1, 1], "
                    f"found {_shortened(value)}"
                )


def is_similarity(value: object) -> bool:
    """Whether ``value`` is a finite number within [-1, 1] (not a boolean)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -1 <= value <= 1  # false for NaN; compares huge integers without converting them


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _size(value: Any) -> str:
    return str(len(value)) if _is_sequence(value) else f"a {type(value).__name__}"


def _shortened(value: object, limit: int = 60) -> str:
    if isinstance(value, int) and value.bit_length() > 8 * limit:
        return "a huge integer"
    text = repr(value) if isinstance(value, int | float | str) else f"a {type(value).__name__}"
    return text if len(text) <= limit else text[:limit] + "..."


def _clamped(value: float) -> float:
    """``value`` without the rounding that averages of 1 can carry beyond 1; keeps NaN."""
    return value if math.isnan(value) else min(1.0, max(-1.0, value))
