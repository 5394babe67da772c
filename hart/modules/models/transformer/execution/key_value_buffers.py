"""Keys and values of a generation in buffers that never grow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from hart.modules.networks.caching.generation_cache import GenerationCache
from hart.modules.networks.caching.plan import kept_tokens


def keys_per_layer(
    cache: GenerationCache, tokens: list[int], last_in_one_piece: bool
) -> list[list[int]]:
    """Per stage, how many keys each layer adds at most: none where its attention is reused.

    Args:
        cache: of the generation, before its first stage.
        tokens: of each stage; the first is the text.
        last_in_one_piece: chunks of the last stage leave out tokens one by one.
    """
    keys = []
    for si, (actions, n) in enumerate(zip(cache.plan.stages, tokens, strict=True)):
        attentions = actions[::2]
        if not cache.plan_is_final:
            keys.append([n] * len(attentions))
            continue
        whole = si == len(tokens) - 1 and not last_in_one_piece
        keys.append([0 if a.reuse else kept_tokens(n, 0 if whole else a.ratio) for a in attentions])
    return keys


class KeyValueBuffers:
    """Keys and values of all layers, (2, rows, H, tokens, d), sized when the generation begins.

    The last stage's keys are needed for one layer at a time when it is drawn in one piece: they
    live in one buffer that the layers share, and a layer's own keys are dropped with it.

    Args:
        keys: per stage and layer, the number of keys added; see :func:`keys_per_layer`.
        shape: rows, heads H and head width d.
        last_in_one_piece: the last stage visits every layer at most once.
    """

    def __init__(
        self,
        keys: list[list[int]],
        shape: tuple[int, int, int],
        last_in_one_piece: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.rows, self.heads, self.width = shape
        self.dtype, self.device = dtype, device
        self.last_in_one_piece = last_in_one_piece
        own = keys[:-1] if last_in_one_piece else keys
        self.capacity = [sum(stage[layer] for stage in own) for layer in range(len(keys[0]))]
        # Slices of the token axis stay dense in memory per row and head.
        self._layers = [self._empty(n) for n in self.capacity]
        self._used = [0] * len(self.capacity)
        self._shared: torch.Tensor | None = None

    def _empty(self, tokens: int) -> torch.Tensor:
        shape = (2, self.rows, self.heads, tokens, self.width)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def extend(self, layer: int, tokens: int) -> tuple[torch.Tensor, int]:
        """Room for the keys and values of ``tokens`` more tokens.

        Returns:
            Keys and values so far, room included (2, rows, H, n, d), and where the room starts.
        """
        start = self._used[layer]
        stop = start + tokens
        if stop <= self.capacity[layer]:
            self._used[layer] = stop
            both = self._layers[layer]
        else:
            both = self._borrow(layer, start, stop)
        return both[:, :, :, :stop], start

    def write_text(self, layer: int, rows: slice, both: torch.Tensor, tokens: int) -> None:
        """Store the text's keys and values of some rows, at the start of the layer's buffers.

        Args:
            both: (2, r, H, n, d); one row stands for all ``rows``, one token for all ``tokens``.
        """
        self._layers[layer][:, rows, :, :tokens] = both
        self._used[layer] = tokens

    def content(self) -> list[torch.Tensor]:
        """Keys and values of every layer so far; later stages leave them as they are."""
        pairs = zip(self._layers, self._used, strict=True)
        return [both[:, :, :, :n] for both, n in pairs]

    def restore(self, content: list[torch.Tensor]) -> None:
        """Begin with what another generation of as many rows had."""
        for layer, both in enumerate(content):
            self._used[layer] = both.shape[3]
            self._layers[layer][:, :, :, : both.shape[3]] = both

    @contextlib.contextmanager
    def unchanged(self, layer: int) -> Iterator[None]:
        """Keys of the layer that are added inside are forgotten afterwards."""
        used = self._used[layer]
        yield
        self._used[layer] = used

    def _borrow(self, layer: int, start: int, stop: int) -> torch.Tensor:
        if not self.last_in_one_piece:
            raise RuntimeError(f"layer {layer} has room for {self.capacity[layer]} keys")
        if self._shared is None or self._shared.shape[3] < stop:
            self._shared = self._empty(stop)
        self._shared[:, :, :, :start] = self._layers[layer][:, :, :, :start]
        self._layers[layer] = self._empty(0)
        return self._shared

    def keep_rows(self, rows: int) -> None:
        """Drop all rows of the batch but the first ones, and free them layer by layer."""
        self.rows = rows
        for layer, both in enumerate(self._layers):
            self._layers[layer] = both[:, :rows].clone()
