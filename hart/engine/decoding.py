"""Decoding feature maps: laid out for the device, and in tiles where memory is short."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hart.modules.models.transformer.stage_transformer import StageTransformer

TILE, OVERLAP = 32, 8
"""Side of a tile of the feature map, and what two neighbours share at least."""


@torch.no_grad()
def decode(model: StageTransformer, f_hat: torch.Tensor) -> torch.Tensor:
    """As ``model.decode_feature_map``, up to rounding: (B, Z, P, P) to (B, 3, H, W) in [0, 1].

    The decoder's kernels are laid out channels-last from now on, in which its convolutions and
    norms are faster; their values stay what they are.
    """
    model.vae_proxy[0].decoder.to(memory_format=torch.channels_last)
    return model.decode_feature_map(f_hat.contiguous(memory_format=torch.channels_last))


@torch.no_grad()
def decode_in_tiles(
    model: StageTransformer, f_hat: torch.Tensor, tile: int = TILE, overlap: int = OVERLAP
) -> torch.Tensor:
    """:func:`decode` with the memory of one tile of one image.

    Tiles overlap and fade into each other. Norms and attention of the decoder see one tile instead
    of the whole map, so that the image differs slightly from the one decoded at once.

    Args:
        f_hat: feature maps (B, Z, P, P).
        tile: side of a tile in positions of the map; maps of that size or less are decoded at once.
        overlap: positions that neighbours share at least.

    Returns:
        images (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: ``overlap`` is not within 0 .. ``tile - 1``.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be within 0 .. {tile - 1} for tiles of {tile}: {overlap}")
    side = f_hat.shape[-1]
    if side <= tile:
        return torch.cat([decode(model, one[None]) for one in f_hat])
    scale = model.vae_proxy[0].downsample
    image = torch.zeros(len(f_hat), 3, side * scale, side * scale, device=f_hat.device)
    total = torch.zeros(side * scale, side * scale, device=f_hat.device)
    weight = _fading(tile * scale, max(1, overlap * scale), f_hat.device)
    for top in _starts(side, tile, overlap):
        for left in _starts(side, tile, overlap):
            rows, columns = (slice(s * scale, (s + tile) * scale) for s in (top, left))
            part = f_hat[:, :, top : top + tile, left : left + tile]
            for one, picture in zip(part, image, strict=True):
                picture[:, rows, columns] += weight * decode(model, one[None])[0].float()
            total[rows, columns] += weight
    return image / total


def _starts(side: int, tile: int, overlap: int) -> Iterator[int]:
    """Where the tiles begin: evenly spread, neighbours sharing ``overlap`` positions or more."""
    steps = -(-(side - tile) // (tile - overlap))
    for i in range(steps + 1):
        yield round(i * (side - tile) / steps)


def _fading(side: int, width: int, device: torch.device) -> torch.Tensor:
    """(side, side) weights that rise over ``width`` pixels from every border."""
    ramp = torch.arange(1, side + 1, device=device)
    ramp = torch.minimum(ramp, ramp.flip(0)).clamp(max=width) / width
    return ramp[:, None] * ramp
