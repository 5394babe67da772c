"""What is added to and multiplied with outputs before they are kept, so that they age better.

A scale and a shift per channel, fitted on what a module would have computed. Interpolation is
linear and keeps constants, so that correcting what is kept is correcting what is reused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FORMAT = np.dtype("<f2")
"""How numbers are kept: half precision, little-endian."""


class Correction(NamedTuple):
    """Of one module's output at the stage that keeps it.

    Attributes:
        si, module: where.
        values: scale, then shift, C numbers each in :data:`FORMAT`.
    """

    si: int
    module: int
    values: bytes

    @classmethod
    def of(cls, si: int, module: int, scale: Tensor, shift: Tensor) -> Correction:
        """From tensors (C,), which are rounded to half precision."""
        both = torch.stack([scale, shift]).cpu().numpy().astype(FORMAT)
        return cls(si, module, both.tobytes())

    @property
    def channels(self) -> int:
        return len(self.values) // (2 * FORMAT.itemsize)

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(np.frombuffer(self.values, FORMAT)).all())

    def tensors(self, like: Tensor) -> Tensor:
        """Scale and shift (2, C) in the dtype and on the device of another tensor."""
        numbers = np.frombuffer(self.values, FORMAT).reshape(2, -1).astype(np.float32)
        return torch.from_numpy(numbers).to(like)


class Corrector:
    """Applies the corrections of one generation.

    Args:
        corrections: at most one per module and stage.
    """

    def __init__(self, corrections: Iterable[Correction] = ()) -> None:
        self._corrections = {(each.si, each.module): each for each in corrections}

    def __call__(self, module: int, si: int, out: Tensor) -> Tensor:
        """What is kept of an output (r, n, C)."""
        correction = self._corrections.get((si, module))
        if correction is None:
            return out
        scale, shift = correction.tensors(out)
        return out * scale + shift
