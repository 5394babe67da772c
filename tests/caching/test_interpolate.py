"""Resizing stored outputs and picking positions of a masked last stage."""

from __future__ import annotations

import pytest
import torch

from hart.modules.networks.caching.interpolate import (
    INTERPOLATION_MODES,
    interpolate_features,
    select_positions,
)


def tokens(side: int, channels: int = 3, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, side * side, channels, generator=generator)


def test_bilinear_aligns_corners_and_keeps_row_major_order():
    x = torch.tensor([[[0.0], [2.0], [4.0], [6.0]]])  # 2x2 map: rows (0, 2), (4, 6)
    expected = torch.tensor([0.0, 1, 2, 2, 3, 4, 4, 5, 6]).view(1, 9, 1)
    torch.testing.assert_close(interpolate_features(x, 2, 3, "bilinear"), expected)


def test_nearest_repeats_cells():
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    expected = torch.tensor([1.0, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]).view(1, 16, 1)
    assert torch.equal(interpolate_features(x, 2, 4, "nearest"), expected)


def test_bicubic_aligns_corners_and_differs_from_bilinear():
    x = tokens(4)
    cubic = interpolate_features(x, 4, 7, "bicubic")
    corners = torch.tensor([0, 6, 42, 48])
    torch.testing.assert_close(cubic[:, corners], x[:, [0, 3, 12, 15]])
    assert not torch.allclose(cubic, interpolate_features(x, 4, 7, "bilinear"))


@pytest.mark.parametrize("mode", INTERPOLATION_MODES)
def test_each_channel_and_row_is_resized_on_its_own(mode):
    x = tokens(3)
    whole = interpolate_features(x, 3, 5, mode)
    single = interpolate_features(x[1:, :, 2:], 3, 5, mode)
    torch.testing.assert_close(whole[1:, :, 2:], single)


@pytest.mark.parametrize("mode", INTERPOLATION_MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("source", "target"), [(1, 2), (5, 7), (4, 8)])
def test_any_mode_and_dtype_gives_a_contiguous_map_of_that_dtype(mode, dtype, source, target):
    x = tokens(source).to(dtype)
    out = interpolate_features(x, source, target, mode)
    assert out.shape == (2, target * target, 3)
    assert out.dtype == dtype
    assert out.is_contiguous()
    reference = interpolate_features(x.double(), source, target, mode)
    torch.testing.assert_close(out.double(), reference, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("mode", INTERPOLATION_MODES)
def test_autocast_does_not_change_the_dtype(mode):
    x = tokens(2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert interpolate_features(x, 2, 3, mode).dtype == torch.bfloat16
        assert interpolate_features(x.float(), 2, 3, mode).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", INTERPOLATION_MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_agrees_with_the_cpu(mode, dtype):
    x = tokens(12, channels=64).to("cuda", dtype)
    out = interpolate_features(x, 12, 16, mode)
    assert (out.dtype, out.device, out.is_contiguous()) == (dtype, x.device, True)
    reference = interpolate_features(x.cpu().double(), 12, 16, mode)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # two roundings to 8 bits of mantissa
    torch.testing.assert_close(out.cpu().double(), reference, atol=tolerance, rtol=tolerance)


def test_the_1x1_map_spreads_its_value_everywhere():
    x = tokens(1)
    for mode in INTERPOLATION_MODES:
        torch.testing.assert_close(interpolate_features(x, 1, 2, mode), x.expand(-1, 4, -1))


def test_equal_sides_change_nothing():
    x = tokens(3)
    assert torch.equal(interpolate_features(x, 3, 3, "bilinear"), x)


def test_a_sliced_input_gives_the_same_result_and_stays_unchanged():
    padded = tokens(4, channels=6)
    view = padded[..., ::2]
    before = padded.clone()
    out = interpolate_features(view, 4, 6, "bilinear")
    torch.testing.assert_close(out, interpolate_features(view.contiguous(), 4, 6, "bilinear"))
    assert torch.equal(padded, before)


def test_a_text_context_is_not_taken_for_a_map():
    with pytest.raises(ValueError, match=r"side 1, got \(2, 300, 3\)"):
        interpolate_features(torch.zeros(2, 300, 3), 1, 2, "bilinear")


def test_shrinking_and_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        interpolate_features(tokens(3), 3, 2, "bilinear")
    with pytest.raises(ValueError, match="'area'"):
        interpolate_features(tokens(3), 3, 4, "area")


def test_positions_as_matrix_and_as_nonzero_pair_select_the_same_tokens():
    x = tokens(3)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, [1, 5, 8]] = True
    mask[1, [0, 2, 3]] = True
    expected = torch.stack([x[0, [1, 5, 8]], x[1, [0, 2, 3]]])
    index = torch.tensor([[1, 5, 8], [0, 2, 3]])
    assert torch.equal(select_positions(x, mask.nonzero(as_tuple=True)), expected)
    assert torch.equal(select_positions(x, index), expected)
    assert select_positions(x, index).is_contiguous()


def test_positions_that_do_not_fit_are_refused():
    x = tokens(3)
    with pytest.raises(ValueError, match="2 rows"):
        select_positions(x, torch.zeros(3, 2, dtype=torch.long))
    rows = torch.tensor([0, 0, 1])
    with pytest.raises(ValueError, match="equally many"):
        select_positions(x, (rows, rows))
