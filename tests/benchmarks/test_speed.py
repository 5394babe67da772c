"""The speed benchmark on tiny shapes: its baseline is the plain model, its tables are complete."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.as_published import as_published, published_habits
from benchmarks.roofline import part_macs
from benchmarks.speed import demo_tables, main
from hart.evaluation.random_weights import random_pipeline
from hart.modules.networks.caching.multiply_adds import transformer_macs


@pytest.fixture(scope="module")
def pipeline():
    return random_pipeline("tiny", device="cpu", dtype="float32")


def test_the_baseline_draws_what_the_plain_model_draws(pipeline, monkeypatch):
    # Beside a float32 model it is not autocast: random weights would draw other tokens in bfloat16.
    monkeypatch.setattr("hart.utils.device.bfloat16_is_fast", lambda: True)
    baseline = as_published(pipeline)
    shared = baseline.model.head.weight, pipeline.model.head.weight
    assert shared[0].data_ptr() == shared[1].data_ptr()
    pipeline.use_engine = False
    (expected,) = pipeline("a lighthouse", seed=1, quiet=True).images
    pipeline.use_engine = True
    with published_habits(baseline):
        (drawn,) = baseline("a lighthouse", seed=1, quiet=True).images
    difference = np.asarray(drawn, float) - np.asarray(expected, float)
    assert np.abs(difference).max() <= 1


def test_the_baseline_has_two_float32_copies_of_the_weights_while_it_draws():
    ours = random_pipeline("tiny", device="cpu", dtype="bfloat16")
    baseline = as_published(ours)
    weight, own = baseline.model.head.weight, ours.model.head.weight
    with published_habits(baseline):
        assert weight.dtype == torch.float32
        assert weight.equal(own.float())
        assert own.dtype == torch.bfloat16
        assert len(baseline("a lighthouse", seed=1, quiet=True).images) == 1
    assert weight.data_ptr() == own.data_ptr()


@pytest.mark.parametrize(
    ("dtype", "fast", "autocast"),
    [("bfloat16", True, True), ("bfloat16", False, False), ("float32", True, False)],
)
def test_the_baseline_is_autocast_beside_half_precision_where_that_is_fast(
    monkeypatch, dtype, fast, autocast
):
    monkeypatch.setattr("hart.utils.device.bfloat16_is_fast", lambda: fast)
    baseline = as_published(random_pipeline("tiny", device="cpu", dtype=dtype))
    with published_habits(baseline):
        assert torch.is_autocast_enabled("cpu") is autocast


def test_the_baseline_decodes_in_the_pipelines_format_and_layout_whatever_the_engine_needs():
    ours = random_pipeline("tiny", device="cpu", dtype="bfloat16")
    ours("a lighthouse", seed=1, quiet=True)
    weight = as_published(ours).model.vae_proxy[0].decoder.conv_in.weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous()


def test_a_half_precision_model_has_as_many_multiply_adds(pipeline):
    half = random_pipeline("tiny", device="cpu", dtype="bfloat16")
    assert part_macs(half, 2) == part_macs(pipeline, 2)


def test_counted_parts_agree_with_the_formulas(pipeline):
    model = pipeline.model
    macs = part_macs(pipeline, 1)
    blocks = transformer_macs(model.transformer_shape)
    head = [n * model.C * model.V for n in model.schedule.lengths]
    assert [macs[f"stage {n}"] for n in model.schedule.lengths] == [
        2 * b + h for b, h in zip(blocks, head, strict=True)
    ]
    width, channels, steps = 32, 4, 8
    row = channels * width + (2 + 3) * width**2 + (2 + 2 * channels / width) * width**2
    assert macs["residual"] == pytest.approx(2 * 49 * steps * row)
    assert macs["decode"] > 0
    assert not model.diffloss.net.input_proj.weight.is_meta


def test_the_demos_table_is_taken_by_relative_depth_and_from_the_end(pipeline):
    table = demo_tables(pipeline.model)
    assert len(table.attn) == 3
    assert all(any(row) for row in table.attn)
    table.validate(3, pipeline.model.schedule)


@pytest.mark.slow
def test_the_command_writes_its_tables_and_its_plot(tmp_path):
    output = tmp_path / "speed.json"
    arguments = ["--shape", "tiny", "--dtype", "float32", "--device", "cpu", "--no-demo-table"]
    assert main([*arguments, "--quiet", "--output", str(output)]) == 0
    report = json.loads(output.read_text())
    paths = report["batches"]["1"]["paths"]
    assert list(paths)[:2] == ["as published", "no-cache"]
    assert len(paths) == 6
    assert paths["no-cache"]["saved_share"] == 0 < paths["original, ceiling"]["saved_share"]
    for name, path in paths.items():
        seconds = path["median_s"]
        parts = seconds["text"] + seconds["transformer"] + seconds["residual"] + seconds["decode"]
        assert seconds["total"] == pytest.approx(parts)
        assert f"| {name} |" in output.with_suffix(".md").read_text()
    assert output.with_suffix(".png").stat().st_size > 10_000
