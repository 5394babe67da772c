"""How long the parts of drawing an image must take at least on this machine.

Multiply-adds over the rate of a large matrix product, or bytes over the rate of a large copy,
whichever is longer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hart.modules.networks.caching.multiply_adds import transformer_macs
from hart.pipeline import HARTPipeline
from hart.utils.timing import Timeline


@dataclass(frozen=True)
class Machine:
    """Measured rates.

    Attributes:
        macs_per_s: multiply-adds per second of a product of two square matrices.
        bytes_per_s: bytes read and written per second by a copy.
    """

    macs_per_s: float
    bytes_per_s: float

    @classmethod
    def measure(
        cls,
        device: torch.device,
        dtype: torch.dtype,
        repeats: int = 5,
        sizes: tuple[int, int] | None = None,
    ) -> Machine:
        """Best of ``repeats``, of random numbers: constant ones cost less power and run faster.

        ``sizes`` are the side of the matrices and the bytes of the copy; by default they fill the
        device, with 8192 and 2 GiB, on a CPU with 2048 and 256 MiB.
        """
        side, size = sizes or ((2048, 2**28) if device.type == "cpu" else (8192, 2**31))
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        product_s = min(seconds_of(lambda: a @ b, device, repeats))
        copy_s = min(seconds_of(lambda: target.copy_(source), device, repeats))
        return cls(side**3 / product_s, 2 * size / copy_s)

    def seconds(self, macs: float, bytes_moved: float) -> float:
        """The longer of both limits."""
        return max(macs / self.macs_per_s, bytes_moved / self.bytes_per_s)


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int = 5) -> list[float]:
    """Seconds of every repetition on the device's own clock, after two that are not measured."""
    work()
    work()
    timeline = Timeline(device)
    for _ in range(repeats):
        work()
        timeline.mark("once")
    return [seconds for _, seconds in timeline.seconds()]


@torch.no_grad()
def part_macs(pipeline: HARTPipeline, batch_size: int) -> dict[str, float]:
    """Multiply-adds of every part of drawing a batch, nothing cached.

    The blocks by formula; the token head, the diffusion head and the decoder by counting what
    torch runs on tensors without data.

    Returns:
        ``stages`` by token count as ``stage N``, ``residual`` and ``decode``.
    """
    model = pipeline.model
    rows, last = 2 * batch_size, model.last_level_pns
    macs = {
        f"stage {length}": rows * blocks + batch_size * length * model.C * model.V
        for length, blocks in zip(
            model.schedule.lengths, transformer_macs(model.transformer_shape), strict=True
        )
    }
    network: Any = _without_data(model.diffloss.net)
    steps = model.diffloss.gen_diffusion.num_timesteps
    x = torch.empty(rows * last, model.Cvae, device="meta")
    y = torch.empty(rows * last, network.model_channels, device="meta")
    macs["residual"] = steps * _count(lambda: network.denoise(x, y))
    decoder = _without_data(model.vae_proxy[0].decoder)
    side = model.patch_nums[-1]
    f_hat = torch.empty(batch_size, model.Cvae, side, side, device="meta")
    macs["decode"] = _count(lambda: decoder(f_hat))
    return macs


def part_bytes(pipeline: HARTPipeline, batch_size: int) -> dict[str, float]:
    """Bytes that every part must move at least: its weights, and the keys and values it reads."""
    model = pipeline.model
    blocks = _size(model.blocks)
    per_token = 2 * 2 * batch_size * model.depth * model.C * model.dtype.itemsize
    sizes, tokens = {}, 0
    new_tokens = model.transformer_shape.new_tokens
    for length, new in zip(model.schedule.lengths, new_tokens, strict=True):
        tokens += new
        sizes[f"stage {length}"] = blocks + tokens * per_token
    steps = model.diffloss.gen_diffusion.num_timesteps
    sizes["residual"] = steps * _size(model.diffloss)
    sizes["decode"] = _size(model.vae_proxy[0].decoder)
    return sizes


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _without_data(module: torch.nn.Module) -> torch.nn.Module:
    """The module's structure in float32 on the meta device; the module itself stays as it is."""
    memo = {
        id(p): torch.nn.Parameter(p.to("meta", torch.float32), False) for p in module.parameters()
    }
    return copy.deepcopy(module, memo)


def _count(work) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2
