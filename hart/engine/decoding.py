"""Decoding feature maps: laid out for the device, and in tiles where memory is short."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import nn

from hart.modules.models.transformer.stage_transformer import StageTransformer

TILE, OVERLAP = 32, 8
"""Side of a tile of the feature map, and what two neighbours share at least."""
CHECKED = 16
"""Side of the part of a feature map that is decoded to find out how exact half precision is."""
HALF_PRECISION_LIMIT = 1 / 255
"""How far a picture in [0, 1] that is decoded in half precision may be from float32's."""

_fitted: WeakKeyDictionary[nn.Module, torch.dtype] = WeakKeyDictionary()


@torch.no_grad()
def decode(model: StageTransformer, f_hat: torch.Tensor) -> torch.Tensor:
    """As ``model.decode_feature_map``, up to rounding: (B, Z, P, P) to (B, 3, H, W) in [0, 1].

    The decoder's kernels are laid out channels-last from now on, in which its convolutions and
    norms are faster, and a half-precision decoder gets the dtype that :func:`fit_decoder_dtype`
    finds; their values stay what they are.
    """
    vae = model.vae_proxy[0]
    vae.decoder.to(memory_format=torch.channels_last)
    if _fitted.get(vae) is not _decoder_dtype(vae):
        _fitted[vae] = fit_decoder_dtype(model, f_hat)
    return model.decode_feature_map(f_hat.contiguous(memory_format=torch.channels_last))


@torch.no_grad()
def fit_decoder_dtype(model: StageTransformer, f_hat: torch.Tensor) -> torch.dtype:
    """Let a half-precision decoder compute in the first dtype that is near enough to float32.

    Tried on a part of the first map, with the weights as they are: :data:`_CANDIDATES` first, then
    float32. A float32 decoder stays one.

    Returns:
        the decoder's dtype from now on.
    """
    vae, part = model.vae_proxy[0], f_hat[:1, :, :CHECKED, :CHECKED]
    own = _decoder_dtype(vae)
    if own is torch.float32:
        return own
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    originals = [parameter.data for parameter in parameters]

    def compute_in(dtype: torch.dtype) -> None:
        for parameter, original in zip(parameters, originals, strict=True):
            parameter.data = original.to(dtype)

    def decoded(dtype: torch.dtype) -> torch.Tensor:
        compute_in(dtype)
        return model.decode_feature_map(part).float()

    exact = decoded(torch.float32)
    for dtype in _CANDIDATES.get(f_hat.device.type, (own,)):
        # Not so for NaN either, to which float16 may overflow.
        if (decoded(dtype) - exact).abs().max() <= HALF_PRECISION_LIMIT:
            return dtype
    compute_in(torch.float32)
    return torch.float32


_CANDIDATES = {"cuda": (torch.float16,)}
"""float16 costs a GPU as much as bfloat16 and rounds less; elsewhere only the weights' own."""


def _decoder_dtype(vae: nn.Module) -> torch.dtype:
    return vae.post_quant_conv.weight.dtype


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
