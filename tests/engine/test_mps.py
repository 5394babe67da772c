"""What is done another way on MPS, done on a CPU: the same pictures, by what MPS can do."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hart.engine import decoder_copy, decoder_runner
from hart.evaluation.random_weights import random_pipeline
from hart.utils import device, resize

WAYS = (
    (device, "STRIDED_ATTENTION_DEVICES"),
    (resize, "POOLING_DEVICES"),
    (decoder_copy, "CHANNELS_LAST_DEVICES"),
)


class Watched(TorchDispatchMode):
    """Counts operators, and collects what MPS cannot do or has done wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.wrong: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        self.calls[name] += 1
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        if "attention" in name and not all(t.is_contiguous() for t in args[:3]):
            self.wrong.append(f"{name} of strided tensors")
        if "adaptive_avg_pool" in name:
            self.wrong.append(name)
        if "convolution" in name and not args[1].is_contiguous():
            self.wrong.append(f"{name} with kernels in another layout")
        if any(t.dtype is torch.float64 for t in tensors) and not self.drawing(name):
            self.wrong.append(f"{name} in float64")
        return out

    @staticmethod
    def drawing(name: str) -> bool:
        """Whether it belongs to the exponential variates, which a CPU alone draws in float64."""
        return name in ("empty", "uniform_", "rsub", "sub", "log_", "neg_", "copy_", "split")


@pytest.mark.parametrize("shape", ["tiny", "var-tiny"])
@pytest.mark.parametrize("preset", ["no-cache", "hybrid"])
def test_the_ways_of_mps_draw_the_same_on_a_cpu(monkeypatch, shape, preset):
    pipeline = random_pipeline(shape, device="cpu", dtype="float32", cache=preset)
    prompt = "a fox" if shape == "tiny" else 1
    expected = np.asarray(pipeline(prompt, quiet=True).images[0], float)
    for module, name in WAYS:
        monkeypatch.setattr(module, name, ())
    # In other layouts on a CPU, and nowhere else.
    monkeypatch.setattr(decoder_runner, "_doubled", lambda upsample, x: upsample(x))
    pipeline = random_pipeline(shape, device="cpu", dtype="float32", cache=preset)
    with Watched() as watched:
        (picture,) = pipeline(prompt, quiet=True).images
    assert watched.wrong == []
    assert any("attention" in name for name in watched.calls)
    assert watched.calls["convolution"] > 10
    assert np.abs(np.asarray(picture, float) - expected).max() <= 1
