"""What memory figures count, against sizes worked out by hand."""

from __future__ import annotations

import mmap

import pytest
import torch

from hart.evaluation.memory import MemoryWatch, held_bytes
from hart.evaluation.random_weights import assumed_similarity, random_pipeline
from hart.modules.models.transformer.execution.key_value_buffers import KeyValueBuffers
from tests.live_bytes import LiveBytes

CPU = torch.device("cpu")


def drawn(cache: str, dtype: torch.dtype = torch.float32):
    """A tiny pipeline after a run of two images, and its statistics."""
    pipeline = random_pipeline("tiny", device="cpu", dtype=dtype, cache=cache)
    pipeline.model.similarity = assumed_similarity(pipeline.model, 1.0)
    return pipeline, pipeline(["a", "b"], quiet=True).statistics


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_caching_every_layer_keeps_all_keys_and_values(dtype):
    pipeline, statistics = drawn("no-cache", dtype)
    held = held_bytes(pipeline, 2, statistics)
    tokens = 6 + 4 + 9 + 16 + 25 + 49  # text in place of the first stage
    per_token = 2 * 32 * dtype.itemsize  # a key and a value of width 32
    assert held["keys_values"] == 3 * 2 * 2 * tokens * per_token  # layers, guidance, images
    assert held["feature_cache"] == 0
    vae = pipeline.model.vae_proxy[0]
    decoder = sum(
        p.numel() for part in (vae.decoder, vae.post_quant_conv) for p in part.parameters()
    )
    others = (
        sum(p.numel() for module in (pipeline.model, vae) for p in module.parameters()) - decoder
    )
    copied = held["weights"] - (others + decoder) * dtype.itemsize
    # The engine's copy of a bfloat16 decoder may be a float32 one.
    assert copied in {decoder * dtype.itemsize, decoder * 4}


def test_reused_attention_adds_no_keys_and_values_but_stored_outputs_count():
    pipeline, statistics = drawn("original")  # reuses everything in the last two stages
    held = held_bytes(pipeline, 2, statistics)
    assert held["keys_values"] == 3 * 2 * 2 * (6 + 4 + 9 + 16) * 2 * 32 * 4
    assert held["feature_cache"] == statistics["feature_cache_bytes"]["peak"] > 0


def test_live_bytes_count_storages_once_and_forget_what_is_freed():
    with LiveBytes("cpu") as live:
        a = torch.ones(250)
        b = a.view(5, 50)[1:]
        assert (live.live, live.peak) == (1000, 1000)
        c = a + 1
        del a
        assert live.live == 2000
        del b
        assert (live.live, live.peak) == (1000, 2000)
        live.restart()
        c.add_(1)
    assert live.peak == 1000


def test_when_guidance_ends_the_rows_without_text_are_freed_layer_by_layer():
    layers, tokens = 10, 5
    with LiveBytes("cpu") as live:
        shape, keys = (4, 2, 8), [[tokens] * layers] * 2
        buffers = KeyValueBuffers(keys, shape, True, torch.float32, CPU)
        whole = live.live
        assert whole == layers * 2 * 4 * 2 * tokens * 8 * 4
        live.restart()
        buffers.keep_rows(2)
        assert live.live == whole / 2
        assert live.peak <= whole + whole / layers


def test_the_process_peak_sees_memory_that_was_given_back():
    watch = MemoryWatch(CPU)
    if watch.read()["process_is"].endswith("since the process started"):
        pytest.skip("this platform cannot restart the peak")
    before = watch.read()["process_bytes"]
    # Of the system: the process may have as much left over from earlier tests.
    with mmap.mmap(-1, 60_000_000) as block:
        for _ in range(60):
            block.write(bytes(1_000_000))
    after = watch.read()
    assert after["process_bytes"] - before > 40_000_000
    assert "peak resident memory" in after["process_is"]
    assert after["device_bytes"] is None


def test_a_platform_that_cannot_restart_its_peak_says_so(monkeypatch):
    monkeypatch.setattr("hart.evaluation.memory._restart_resident_peak", lambda: False)
    memory = MemoryWatch(CPU).read()
    assert memory["process_bytes"] > 20_000_000
    assert memory["process_is"].endswith("since the process started")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_peak_starts_anew():
    device = torch.device("cuda")
    block = torch.ones(60_000_000, dtype=torch.uint8, device=device)
    del block
    assert MemoryWatch(device).read()["device_bytes"] < 60_000_000
