"""Attention by small matrix products against torch's kernel."""

import pytest
import torch
from torch.nn import functional as F

from hart.modules.models.transformer.execution import attention
from hart.modules.models.transformer.execution.attention import attend, attend_in_pieces
from hart.modules.networks.basic_vae import AttnBlock


def random_heads(rows, heads, queries, keys, dtype=torch.float32, channels=16):
    generator = torch.Generator().manual_seed(0)
    sizes = (queries, keys, keys)
    return [torch.randn(rows, heads, n, channels, generator=generator).to(dtype) for n in sizes]


@pytest.mark.parametrize("scores_at_once", [1, 900, 10**9])
@pytest.mark.parametrize("queries", [1, 7, 16, 33])
def test_pieces_add_up(monkeypatch, queries, scores_at_once):
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", 16)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", scores_at_once)
    q, k, v = random_heads(2, 3, queries, 40)
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    assert torch.allclose(attend_in_pieces(q, k, v, 0.3), expected, atol=1e-6)


def test_keys_may_be_the_start_of_a_buffer():
    q, k, v = random_heads(2, 3, 5, 40)
    part, whole = attend_in_pieces(q, k[:, :, :12], v[:, :, :12], 0.3), (k[:, :, :12], v[:, :, :12])
    assert torch.allclose(part, F.scaled_dot_product_attention(q, *whole, scale=0.3), atol=1e-6)


def test_bfloat16_is_as_exact_as_its_rounding():
    q, k, v = random_heads(2, 4, 130, 300, torch.bfloat16, channels=64)
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=0.125)
    error = attend_in_pieces(q, k, v, 0.125).float() - exact
    assert error.square().mean().sqrt() < 0.01 * exact.square().mean().sqrt()


def test_a_device_that_needs_dense_tensors_gets_them(monkeypatch):
    """On MPS torch's attention has been wrong for strided keys."""
    monkeypatch.setattr("hart.utils.device.STRIDED_ATTENTION_DEVICES", ())
    q, k, v = random_heads(2, 3, 5, 40, channels=64)
    strided = (q.transpose(1, 2).contiguous().transpose(1, 2), k[:, :, :12], v[:, :, :12])
    expected, seen = F.scaled_dot_product_attention(*strided, scale=0.3), []
    kernel = F.scaled_dot_product_attention

    def watched(*tensors, **options):
        seen.extend(tensor.is_contiguous() for tensor in tensors)
        return kernel(*tensors, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    assert torch.allclose(attend(*strided, 0.3), expected, atol=1e-6)
    with torch.no_grad():
        AttnBlock(32)(torch.randn(1, 32, 4, 4))
    assert seen == [True] * 6


@pytest.mark.parametrize(
    ("dtype", "amx", "fast", "in_pieces"),
    [
        (torch.bfloat16, False, True, True),
        (torch.bfloat16, True, True, False),
        (torch.bfloat16, False, False, False),
        (torch.float32, False, True, False),
    ],
)
def test_only_where_torchs_kernel_is_slow(monkeypatch, dtype, amx, fast, in_pieces):
    monkeypatch.setattr(attention, "has_amx", lambda: amx)
    monkeypatch.setattr(attention, "bfloat16_is_fast", lambda: fast)
    calls = []
    monkeypatch.setattr(attention, "attend_in_pieces", lambda q, k, v, s: calls.append(s) or q)
    q, k, v = random_heads(1, 2, 3, 5, dtype)
    assert attend(q, k, v, 0.3).shape == q.shape
    assert calls == [0.3] * in_pieces
