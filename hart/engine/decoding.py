"""Decoding feature maps: laid out for the device, and in tiles where memory is short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from hart.engine.bare import decoder_is_bare
from hart.engine.decoder_runner import DecoderRunner
from hart.modules.models.transformer.stage_transformer import StageTransformer

TILE, OVERLAP = 32, 8
"""Side of a tile of the feature map, and what two neighbours share at least."""
CHECKED = 16
"""Side of the part of a feature map that is decoded to find out how exact half precision is."""
HALF_PRECISION_LIMIT = 1 / 255
"""How far a picture in [0, 1] that is decoded in half precision may be from float32's."""


class Precision(NamedTuple):
    """How a decoder computes: with weights in ``dtype``, see :class:`DecoderRunner`."""

    dtype: torch.dtype
    last_level: torch.dtype | None = None


_fitted: WeakKeyDictionary[nn.Module, Precision] = WeakKeyDictionary()


@torch.no_grad()
def decode(model: StageTransformer, f_hat: torch.Tensor) -> torch.Tensor:
    """As ``model.decode_feature_map``, up to rounding: (B, Z, P, P) to (B, 3, H, W) in [0, 1].

    The decoder's kernels are laid out channels-last from now on, in which its convolutions and
    norms are faster, and a half-precision decoder gets the precision that :func:`fit_precision`
    finds; their values stay what they are.
    """
    vae = model.vae_proxy[0]
    if not decoder_is_bare(vae):
        return model.decode_feature_map(f_hat)
    vae.decoder.to(memory_format=torch.channels_last)
    fitted = _fitted.get(vae)
    if fitted is None or fitted.dtype is not _decoder_dtype(vae):
        fitted = _fitted[vae] = fit_precision(model, f_hat)
    return _decode(model, f_hat, fitted)


@torch.no_grad()
def fit_precision(model: StageTransformer, f_hat: torch.Tensor) -> Precision:
    """Let a half-precision decoder compute in the quickest way that is near enough to float32.

    Tried on a part of the first map, with the weights as they are: half precision, then the
    products of the last level alone in half precision, then float32. Half precision is float16 on
    a GPU, which costs as much as bfloat16 and rounds less; elsewhere it is the weights' own. A
    float32 decoder stays one.

    Returns:
        how the decoder computes from now on; its weights have that dtype.
    """
    vae, part = model.vae_proxy[0], f_hat[:1, :, :CHECKED, :CHECKED]
    own = _decoder_dtype(vae)
    if own is torch.float32:
        return Precision(own)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    originals = [parameter.data for parameter in parameters]

    def decoded(precision: Precision) -> torch.Tensor:
        for parameter, original in zip(parameters, originals, strict=True):
            parameter.data = original.to(precision.dtype)
        return _decode(model, part, precision).float()

    half = torch.float16 if f_hat.device.type == "cuda" else own
    exact = decoded(Precision(torch.float32))
    for precision in (Precision(half), Precision(torch.float32, last_level=half)):
        # Not so for NaN either, to which float16 may overflow.
        if (decoded(precision) - exact).abs().max() <= HALF_PRECISION_LIMIT:
            return precision
    return Precision(torch.float32)  # which the last one tried has left the weights in


def _decode(model: StageTransformer, f_hat: torch.Tensor, precision: Precision) -> torch.Tensor:
    runner = DecoderRunner(model.vae_proxy[0].decoder, precision.last_level)
    return model.decode_feature_map(f_hat.contiguous(memory_format=torch.channels_last), runner)


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
