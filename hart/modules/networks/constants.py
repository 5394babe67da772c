"""Small tensors that follow from numbers alone, such as frequencies and grids."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch


class Constants:
    """Makes each tensor on the CPU, so that every device gets the same bits, and copies it once.

    Copying it at every use would make the host wait for the device. Whoever needs them owns one;
    copies of the owner, saved or sent elsewhere, begin empty.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, torch.Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_kept": {}}

    def get(
        self,
        device: torch.device | str,
        make: Callable[..., torch.Tensor],
        *arguments: Hashable,
    ) -> torch.Tensor:
        """``make(*arguments)``, which makes it on the CPU, on ``device``; not to be changed."""
        if torch.compiler.is_compiling():
            return make(*arguments).to(device)
        key = (torch.device(device), make, arguments)
        if key not in self._kept:
            with torch.inference_mode(False):  # others may want gradients
                self._kept[key] = make(*arguments).to(device)
        return self._kept[key]
