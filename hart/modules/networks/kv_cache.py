"""Keys and values of earlier stages, one cache per layer."""

from __future__ import annotations

import torch


class LayerKVCache:
    """Grows by concatenation along the token axis; layout (rows, H, tokens, d)."""

    def __init__(self) -> None:
        self.k: torch.Tensor | None = None
        self.v: torch.Tensor | None = None

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values (rows, H, n, d); returns everything cached so far."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat((self.k, k), dim=2), torch.cat((self.v, v), dim=2)
        self.k, self.v = k, v
        return k, v

    def keep_rows(self, rows: int) -> None:
        """Forget all but the first ``rows`` rows, and free their memory."""
        if self.k is not None and self.v is not None:
            self.k, self.v = self.k[:rows].clone(), self.v[:rows].clone()

    @property
    def num_tokens(self) -> int:
        return 0 if self.k is None else self.k.shape[2]
