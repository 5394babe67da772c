"""Where the random draws of one generation come from.

Two sources exist. :class:`UpstreamRandom` draws like the public implementation: token ids from one
generator for the whole batch, the generation order from numpy's and the residual noise from torch's
global generators. :class:`PerImageRandom` draws everything of an image from that image's own
generator, so that its random numbers depend neither on its batch nor on anything drawn elsewhere,
nor on the size of the GPU, see :data:`DRAWN_AT_ONCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from hart.modules.networks.caching.numbers import integer

DRAWN_AT_ONCE = 32_768
"""Most variates that are drawn in one go.

CUDA's kernels start a thread with a random stream of its own for every variate, as long as the GPU
has room for the threads; if not, every thread draws several, and what comes out depends on the GPU.
So many threads fit on 32 multiprocessors with room for 1024, or on 22 with room for 1536. On a CPU
so many exponential ones, worked on in several steps, stay in its cache.
"""

SMALLEST_EXPONENTIAL = 2.0**-25
"""In the place of a zero, which uniform float32 variates yield once in 16 million."""


class CopyableGenerator(torch.Generator):
    """A generator that supports ``copy.deepcopy``: same device, same state."""

    def __deepcopy__(self, memo: dict) -> CopyableGenerator:
        clone = CopyableGenerator(device=self.device)
        clone.set_state(self.get_state())
        memo[id(self)] = clone
        return clone


def numpy_orders(bsz: int, length: int) -> torch.Tensor:
    """(bsz, length) int64: one shuffle of 0 .. length-1 per sample by numpy's global generator."""
    orders = np.stack([_shuffled(length) for _ in range(bsz)])
    return torch.from_numpy(orders).long()


def _shuffled(length: int) -> np.ndarray:
    order = np.arange(length)
    np.random.shuffle(order)
    return order


class UpstreamRandom:
    """Draws in the public implementation's order from its generators.

    Args:
        generator: of the token draws, None for the device's default one.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def token_ids(self, probabilities: torch.Tensor) -> torch.Tensor:
        """One id per position: (B, n, V) to (B, n)."""
        flat = probabilities.reshape(-1, probabilities.shape[-1])
        ids = torch.multinomial(flat, 1, replacement=True, generator=self.generator)
        return ids.view(probabilities.shape[:2])

    def classes(self, bsz: int, num_classes: int, device: torch.device) -> torch.Tensor:
        """(bsz,) int64 class indices, all equally likely."""
        share = 1 / num_classes
        uniform = torch.full((1, num_classes), share, dtype=torch.float32, device=device)
        return torch.multinomial(uniform, bsz, replacement=True, generator=self.generator)[0]

    def exponential(self, like: torch.Tensor) -> torch.Tensor:
        """Exp(1) variates of the shape, dtype and device of ``like``."""
        return torch.empty_like(like).exponential_(generator=self.generator)

    def orders(self, bsz: int, length: int) -> torch.Tensor:
        """(bsz, length) int64 generation order of the last stage's positions."""
        return numpy_orders(bsz, length)

    def noise_source(self, positions: int) -> None:
        """None: the diffusion head draws from torch's global generators itself."""
        return None


class PerImageRandom:
    """Draws everything of image ``b`` from ``generators[b]``, on that generator's device.

    With generators on the CPU a model on any device gets the CPU's noise.
    """

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self.generators = list(generators)
        self.device = device

    def _stack(self, draw) -> torch.Tensor:
        return torch.stack([draw(g) for g in self.generators]).to(self.device)

    def token_ids(self, probabilities: torch.Tensor) -> torch.Tensor:
        """One id per position, as argmax(p / Exp(1)): (B, n, V) to (B, n)."""
        return (probabilities / self.exponential(probabilities)).argmax(dim=-1)

    def classes(self, bsz: int, num_classes: int, device: torch.device) -> torch.Tensor:
        """(bsz,) int64 class indices, all equally likely."""

        def draw(g: torch.Generator) -> torch.Tensor:
            return torch.randint(num_classes, (), generator=g, device=g.device, dtype=torch.int64)

        return self._stack(draw).to(device)

    def exponential(self, like: torch.Tensor) -> torch.Tensor:
        """Exp(1) variates of the shape (B, ...) of ``like``."""
        return self._stack(lambda g: _drawn(_exponential_, like.shape[1:], like.dtype, g))

    def orders(self, bsz: int, length: int) -> torch.Tensor:
        """(bsz, length) int64 generation order of the last stage's positions."""

        def draw(g: torch.Generator) -> torch.Tensor:
            return torch.randperm(length, generator=g, device=g.device, dtype=torch.int64)

        return self._stack(draw)

    def noise_source(self, positions: int):
        """Noise for the diffusion head: ``positions`` rows per image, image after image.

        When the head runs both halves of the guidance batch by themselves, both get the same
        noise; the second half does not reach the image.
        """

        def draw(shape: tuple[int, ...], kind: str) -> torch.Tensor:
            one, fill = (positions, shape[1]), torch.Tensor.normal_
            noise = self._stack(lambda g: _drawn(fill, one, torch.float32, g)).flatten(0, 1)
            return noise.repeat(shape[0] // noise.shape[0], 1)

        return draw


def _drawn(
    fill: Callable, shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """A tensor that ``fill(tensor, generator=...)`` fills; see :data:`DRAWN_AT_ONCE`."""
    drawn = torch.empty(shape, dtype=dtype, device=generator.device)
    pieces = (drawn,)
    if generator.device.type == "cuda":
        pieces = drawn.view(-1).split(DRAWN_AT_ONCE)
    for piece in pieces:
        fill(piece, generator=generator)
    return drawn


def _exponential_(drawn: torch.Tensor, generator: torch.Generator) -> None:
    """Fill with Exp(1) variates; on a CPU from its uniform ones, the same on every processor.

    There torch's own kernel takes twice as long on some processors, and on others leaves the draws
    to a library that makes different ones.
    """
    if drawn.device.type != "cpu":
        drawn.exponential_(generator=generator)
        return
    for piece in drawn.view(-1).split(DRAWN_AT_ONCE):
        piece.uniform_(generator=generator)
        torch.sub(1, piece, out=piece).log_().neg_().clamp_(min=SMALLEST_EXPONENTIAL)


def resolve_random_source(
    g_seed: int | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    bsz: int,
    device: torch.device,
) -> UpstreamRandom | PerImageRandom:
    """Choose the source from the sampler's arguments.

    Raises:
        ValueError: both ``g_seed`` and ``generator`` are given, or not one generator per image.
    """
    if generator is None:
        if g_seed is None:
            return UpstreamRandom()
        return UpstreamRandom(torch.Generator(device).manual_seed(integer("g_seed", g_seed)))
    if g_seed is not None:
        raise ValueError("g_seed and generator exclude each other; give one of them")
    generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
    if len(generators) != bsz:
        raise ValueError(f"generator must hold one per image: {bsz} images, {len(generators)}")
    return PerImageRandom(generators, device)
