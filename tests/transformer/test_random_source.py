"""Noise: an image's own, whatever else is drawn, and the same on every GPU."""

from __future__ import annotations

import pytest
import torch

from hart.modules.models.transformer import random_source
from hart.modules.models.transformer.random_source import (
    DRAWN_AT_ONCE,
    SMALLEST_EXPONENTIAL,
    PerImageRandom,
    _drawn,
)

CPU = torch.device("cpu")


class FakeGenerator:
    """Of a CUDA device, for code that only asks where the generator is."""

    device = torch.device("cuda")


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(i) for i in range(n)]


def test_a_gpu_draws_no_more_at_once_than_every_gpu_draws_alike(monkeypatch):
    real, sizes = torch.empty, []
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, device: real(shape, dtype=dtype))

    def fill(piece: torch.Tensor, generator) -> None:
        sizes.append(piece.numel())
        piece.fill_(len(sizes))

    n = 2 * DRAWN_AT_ONCE + 5
    drawn = _drawn(fill, (n, 1), torch.float32, FakeGenerator())
    assert sizes == [DRAWN_AT_ONCE, DRAWN_AT_ONCE, 5]
    assert drawn.shape == (n, 1)
    assert drawn[:, 0].unique_consecutive().tolist() == [1, 2, 3]


def test_a_cpu_draws_the_same_on_every_processor():
    """Exp(1) by inversion of uniforms, piece after piece of one stream."""
    like = torch.empty(2, 50, 700)
    assert like[0].numel() > DRAWN_AT_ONCE
    found = PerImageRandom(generators(2), CPU).exponential(like)
    for i, generator in enumerate(generators(2)):
        uniform = torch.rand(50, 700, generator=generator)
        wanted = -torch.log1p(-uniform).clamp_(max=-SMALLEST_EXPONENTIAL)
        torch.testing.assert_close(found[i], wanted, rtol=1e-5, atol=1e-7)
    assert abs(found.mean().item() - 1) < 0.02


def test_no_exponential_variate_is_zero(monkeypatch):
    """A token of probability 0 would win a draw by 0 / 0."""
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda x, generator: x.zero_())
    drawn = torch.ones(3)
    random_source._exponential_(drawn, torch.Generator())
    assert drawn.tolist() == [SMALLEST_EXPONENTIAL] * 3


def test_a_cpu_draws_noise_as_torch_does():
    noise = PerImageRandom(generators(2), CPU).noise_source(50)((100, 3), "initial")
    for i, generator in enumerate(generators(2)):
        assert noise[50 * i : 50 * (i + 1)].equal(torch.randn(50, 3, generator=generator))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_every_variate_comes_from_a_thread_of_its_own(monkeypatch):
    """So half as many at once change only what comes after them."""
    like = torch.empty(1, 3 * DRAWN_AT_ONCE, device="cuda")

    def noise(at_once: int) -> torch.Tensor:
        monkeypatch.setattr(random_source, "DRAWN_AT_ONCE", at_once)
        generator = torch.Generator("cuda").manual_seed(3)
        return PerImageRandom([generator], like.device).exponential(like)[0]

    whole, half = noise(DRAWN_AT_ONCE), noise(DRAWN_AT_ONCE // 2)
    assert whole[: DRAWN_AT_ONCE // 2].equal(half[: DRAWN_AT_ONCE // 2])
    assert whole.unique().numel() > 0.9 * whole.numel()
