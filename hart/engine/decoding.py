"""Decoding feature maps: by a copy laid out for the device, and in tiles where memory is short."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hart.engine.decoder_copy import DecoderCopy
from hart.modules.models.transformer.execution.bare import decoder_is_bare
from hart.modules.models.transformer.stage_transformer import StageTransformer

TILE, OVERLAP = 32, 8
"""Side of a tile of the feature map, and what two neighbours share at least."""

PIXELS_AT_ONCE = 2**20
"""Images are decoded in pieces of this many pixels, or one by one: a large one has enough to do for
any device, and its maps are hundreds of MiB."""


class EngineDecoder:
    """Decodes feature maps of a model with a :class:`DecoderCopy`, which it owns.

    The copy is made with the first map, kept for the next ones, made anew when the autoencoder or
    its weights have changed, and freed with this object. Copies of this object start without one.
    Threads may share it.
    """

    def __init__(self) -> None:
        self._copy: DecoderCopy | None = None

    def __reduce__(self) -> tuple:
        return type(self), ()

    @property
    def size_bytes(self) -> int:
        """Memory of the copy."""
        copy = self._copy
        return 0 if copy is None else copy.size_bytes

    @torch.no_grad()
    def decode(self, model: StageTransformer, f_hat: torch.Tensor) -> torch.Tensor:
        """As ``model.decode_feature_map``, up to rounding: (B, Z, P, P) to (B, 3, H, W) in [0, 1].

        A half-precision decoder gets the precision that :func:`fit_precision` finds. A decoder with
        adapters, hooks or replaced parts is called as it is.
        """
        vae, copy = model.vae_proxy[0], self._copy
        if not decoder_is_bare(vae):
            return model.decode_feature_map(f_hat)
        if copy is None or not copy.is_of(vae):
            self._copy = None  # freed before there is another one
            self._copy = copy = DecoderCopy.of(vae)
        side = f_hat.shape[-1] * vae.downsample
        pieces = f_hat.split(max(1, PIXELS_AT_ONCE // side**2))
        return torch.cat([model.decode_feature_map(piece, copy) for piece in pieces])

    @torch.no_grad()
    def decode_in_tiles(
        self,
        model: StageTransformer,
        f_hat: torch.Tensor,
        tile: int = TILE,
        overlap: int = OVERLAP,
    ) -> torch.Tensor:
        """:meth:`decode` with the memory of one tile of one image.

        Tiles overlap and fade into each other. Norms and attention of the decoder see one tile
        instead of the whole map, so that the image differs slightly from the one decoded at once.

        Args:
            f_hat: feature maps (B, Z, P, P).
            tile: side of a tile in positions of the map; maps of that size or less are decoded at
                once.
            overlap: positions that neighbours share at least.

        Returns:
            images (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: ``overlap`` is not within 0 .. ``tile - 1``.
        """
        if not 0 <= overlap < tile:
            raise ValueError(
                f"overlap must be within 0 .. {tile - 1} for tiles of {tile}: {overlap}"
            )
        side = f_hat.shape[-1]
        if side <= tile:
            return torch.cat([self.decode(model, one[None]) for one in f_hat])
        scale = model.vae_proxy[0].downsample
        size = (len(f_hat), 3, side * scale, side * scale)
        image = torch.zeros(size, dtype=torch.float32, device=f_hat.device)
        total = torch.zeros_like(image[0, 0])
        weight = _fading(tile * scale, max(1, overlap * scale), f_hat.device)
        for top in _starts(side, tile, overlap):
            for left in _starts(side, tile, overlap):
                rows, columns = (slice(s * scale, (s + tile) * scale) for s in (top, left))
                part = f_hat[:, :, top : top + tile, left : left + tile]
                for one, picture in zip(part, image, strict=True):
                    picture[:, rows, columns] += weight * self.decode(model, one[None])[0].float()
                total[rows, columns] += weight
        return image / total


def _starts(side: int, tile: int, overlap: int) -> Iterator[int]:
    """Where the tiles begin: evenly spread, neighbours sharing ``overlap`` positions or more."""
    steps = -(-(side - tile) // (tile - overlap))
    for i in range(steps + 1):
        yield round(i * (side - tile) / steps)


def _fading(side: int, width: int, device: torch.device) -> torch.Tensor:
    """(side, side) weights that rise over ``width`` pixels from every border."""
    ramp = torch.arange(1, side + 1, dtype=torch.float32, device=device)
    ramp = torch.minimum(ramp, ramp.flip(0)).clamp(max=width) / width
    return ramp[:, None] * ramp
