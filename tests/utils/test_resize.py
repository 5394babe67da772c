"""Averaging over areas: the same by pooling and by products, which every device has."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.utils import resize
from hart.utils.resize import average_areas
from tests.tiny_models import draw, fill, tiny_model

PUBLISHED_SIDES = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)


@pytest.fixture
def by_products(monkeypatch):
    """As on a device whose pooling cannot do it."""
    monkeypatch.setattr(resize, "POOLING_DEVICES", ())
    monkeypatch.setattr(F, "adaptive_avg_pool2d", None)


@pytest.mark.parametrize("source", [*PUBLISHED_SIDES, 13, 20])
def test_products_are_the_pooling_up_to_rounding(monkeypatch, source):
    x = torch.randn(2, 3, source, source, generator=torch.Generator().manual_seed(source))
    for target in PUBLISHED_SIDES:
        pooled = average_areas(x, (target, target))
        with monkeypatch.context() as products:
            products.setattr(resize, "POOLING_DEVICES", ())
            assert (average_areas(x, (target, target)) - pooled).abs().max() <= 2.4e-7


@pytest.mark.parametrize("size", [(2, 7), (5, 1), (9, 4)])
def test_maps_need_not_be_square(by_products, size):
    x = torch.arange(35.0).view(1, 1, 5, 7)
    found = average_areas(x, size)
    for i in range(size[0]):
        for j in range(size[1]):
            rows, columns = (
                slice(k * n // m, -(-(k + 1) * n // m))
                for k, n, m in ((i, 5, size[0]), (j, 7, size[1]))
            )
            assert found[0, 0, i, j] == pytest.approx(x[0, 0, rows, columns].mean().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_in_float32_whatever_is_around(by_products, dtype):
    x = torch.randn(1, 2, 9, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = average_areas(x, (4, 4))
    assert found.dtype is dtype
    assert found.equal(average_areas(x.float(), (4, 4)).to(dtype))


@pytest.mark.parametrize("preset", ["no-cache", "hybrid", "fastvar"])
def test_pictures_are_those_of_the_pooling(preset, request):
    model = tiny_model(HARTForT2IEnhanced)
    fill(model, 0.95)
    model.set_cache_config(preset)
    expected = draw(model, 2)
    request.getfixturevalue("by_products")
    torch.testing.assert_close(draw(model, 2), expected, atol=1e-3, rtol=0)
