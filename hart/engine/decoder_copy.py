"""A decoder that is converted for the engine: a copy, so that the autoencoder stays as it is."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import torch
from torch import nn

from hart.engine.decoder_runner import DecoderRunner
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.utils.converted import converted_copy
from hart.utils.device import without_autocast

HALF_PRECISION_LIMIT = 1 / 255
"""How far a picture in [0, 1] that is decoded in half precision may be from float32's."""
TRIED_SIDES = (1, 2, 4, 8, 16)
"""Stages of the map that is decoded to find out how exact half precision is."""
CHANNELS_LAST_DEVICES = ("cpu", "cuda")
"""Where kernels are laid out channels-last. MPS has no kernels for that order and copies."""


class Precision(NamedTuple):
    """How a decoder computes: with weights in ``dtype``, see :class:`DecoderRunner`."""

    dtype: torch.dtype
    last_level: torch.dtype | None = None


class DecoderCopy:
    """The decoder of an autoencoder, and the convolution before it, in another format.

    Its kernels are laid out channels-last, in which its convolutions and norms are faster on a CPU.
    The autoencoder is only read.

    Args:
        vae: whose decoder is copied.
        precision: the copy's.
        device: the copy's, by default the autoencoder's.
    """

    def __init__(
        self, vae: HARTAutoEncoder, precision: Precision, device: torch.device | str | None = None
    ) -> None:
        self.precision = precision
        self._vae, self._state = weakref.ref(vae), _state(vae)
        device = torch.device(device or vae.post_quant_conv.weight.device)
        last = device.type in CHANNELS_LAST_DEVICES
        self._layout = torch.channels_last if last else torch.contiguous_format

        def convert(tensor: torch.Tensor) -> torch.Tensor:
            layout = self._layout if tensor.dim() == 4 else torch.preserve_format
            return tensor.to(device, precision.dtype, memory_format=layout)

        self._conv = converted_copy(vae.post_quant_conv, convert)
        self._decoder = converted_copy(vae.decoder, convert)
        self._runner = DecoderRunner(self._decoder, precision.last_level)

    @classmethod
    def of(cls, vae: HARTAutoEncoder) -> DecoderCopy:
        """In the precision of :func:`fit_precision`."""
        return cls(vae, fit_precision(vae))

    def is_of(self, vae: HARTAutoEncoder) -> bool:
        """Whether it was made of ``vae`` as it is now. Reads all weights once, which is quick."""
        return self._vae() is vae and self._state == _state(vae)

    def __call__(self, f_hat: torch.Tensor) -> torch.Tensor:
        """Feature maps (B, Z, h, w) to images (B, 3, H, W), not clamped, in the copy's dtype."""
        f_hat = f_hat.to(self.precision.dtype).contiguous(memory_format=self._layout)
        return self._runner(self._conv(f_hat))

    @property
    def size_bytes(self) -> int:
        """Memory of the copied weights."""
        return sum(p.nbytes for part in (self._conv, self._decoder) for p in part.parameters())


@torch.no_grad()
@torch.inference_mode(False)
def fit_precision(vae: HARTAutoEncoder) -> Precision:
    """The quickest way for a half-precision decoder to compute that is near enough to float32.

    Tried on :func:`typical_map`, with the weights as they are: half precision, then the products
    of the last level alone in half precision, then float32. Half precision is float16 on a GPU,
    which costs as much as bfloat16 and rounds less; elsewhere it is the weights' own. A float32
    decoder stays one. So it depends on the weights and the device, on no picture.

    What float32 says is computed on the CPU: CUDA's convolutions take TF32 for it, unless the whole
    process is told otherwise.
    """
    weight = vae.post_quant_conv.weight
    if weight.dtype is torch.float32:
        return Precision(torch.float32)
    half = torch.float16 if weight.device.type == "cuda" else weight.dtype
    with without_autocast(weight.device):
        f_hat = typical_map(vae)

        def decoded(precision: Precision) -> torch.Tensor:
            return DecoderCopy(vae, precision)(f_hat).clamp(-1, 1).float().cpu()

        exact = DecoderCopy(vae, Precision(torch.float32), "cpu")(f_hat.cpu()).clamp(-1, 1)
        for precision in (Precision(half), Precision(torch.float32, last_level=half)):
            # Not so for NaN either, to which float16 may overflow.
            if (decoded(precision) - exact).abs().max() / 2 <= HALF_PRECISION_LIMIT:
                return precision
    return Precision(torch.float32)


def typical_map(vae: HARTAutoEncoder) -> torch.Tensor:
    """A feature map (1, Z, 16, 16) in float32: the sum of random codes, the same every time."""
    generator, device = torch.Generator("cpu").manual_seed(0), vae.post_quant_conv.weight.device
    ids = [
        torch.randint(vae.vocab_size, (1, side**2), generator=generator, device="cpu").to(device)
        for side in TRIED_SIDES
    ]
    return vae.idxBl_to_fhat(ids, same_shape=True)[-1]


@torch.no_grad()
def _state(vae: HARTAutoEncoder) -> list:
    """Tells whether the weights or settings (a norm's epsilon) that a copy is made of have changed.

    The version that torch counts does not rise with a change through ``.data`` or of a tensor that
    was made in inference mode, and an address may be another tensor's later; the sums see such.
    """
    tensors = list(_tensors(vae))
    where = [
        (t.data_ptr(), None if t.is_inference() else t._version, t.dtype, t.device, tuple(t.shape))
        for t in tensors
    ]
    sums = torch.stack([_sum_of_bits(t) for t in tensors]).tolist() if tensors else []
    settings = str(vae.post_quant_conv), str(vae.decoder)
    return [*settings, *zip(where, sums, strict=True)]


def _tensors(vae: HARTAutoEncoder) -> Iterator[torch.Tensor]:
    parts: tuple[nn.Module, ...] = (vae.post_quant_conv, vae.decoder, vae.quantize)
    return chain.from_iterable(part.parameters() for part in parts)


def _sum_of_bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bits as integers, added up; eight bytes at a time where they go into it."""
    flat = tensor.detach().reshape(-1)
    at_once = 8 // flat.itemsize
    if flat.numel() % at_once or flat.storage_offset() % at_once:
        return flat.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[flat.itemsize]).sum()
    return flat.view(torch.int64).sum()
