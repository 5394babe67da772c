"""How many bytes of tensors live at once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors of a device that are made inside, and how many live at once.

    What a kernel needs inside itself and the allocator's rounding come on top.

    Args:
        device: whose tensors count.

    Attributes:
        live, peak: bytes now, and most of them so far.
    """

    def __init__(self, device: torch.device | str) -> None:
        super().__init__()
        self._type = torch.device(device).type
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self.live = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self._type:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known.add(storage)
        weakref.finalize(storage, self._freed, size).atexit = False
        self.live += size
        self.peak = max(self.peak, self.live)

    def _freed(self, size: int) -> None:
        self.live -= size

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.live
