"""Settings of the whole process: pictures are the same under each, and nothing remembers them."""

from __future__ import annotations

import contextlib

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hart.evaluation.random_weights import random_pipeline
from hart.modules.networks.rope import LlamaRotaryEmbedding, get_position_ids
from hart.utils import device
from tests.product import product
from tests.reliability.lent import PRESETS, expected_picture, picture, tiny_pipeline
from tests.tiny_models import draw, text
from tests.var.test_var_model import tiny_var


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device():
    """The meta device: whatever is made there has no values, and fails beside what has some."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    """With it, torch also fills memory that it was asked to leave unset."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": default_device,
    "deterministic": deterministic,
    "inference": torch.inference_mode,
    "grad": torch.enable_grad,
}


@product(setting=[*SETTINGS], dtype=[torch.float32, torch.bfloat16], engine=[True, False])
def test_a_setting_changes_no_picture_and_leaves_no_trace(setting, dtype, engine):
    pipeline = tiny_pipeline(dtype, engine=engine)
    expected = {preset: expected_picture(dtype, preset, engine) for preset in PRESETS}
    with SETTINGS[setting]():
        for preset in PRESETS:
            assert picture(pipeline, preset) == expected[preset], preset
    assert picture(pipeline, PRESETS[0]) == expected[PRESETS[0]]


@product(2, setting=["device", *sorted({*SETTINGS} - {"device"})])
def test_upstreams_draws_and_vars_do_not_change_either(setting):
    hart, var = tiny_pipeline().model, tiny_var()
    context, labels = text(hart), torch.tensor([1, 2])

    def drawn() -> list[torch.Tensor]:
        torch.manual_seed(0)
        return [
            hart.autoregressive_infer_cfg(1, g_seed=5, more_smooth=True, **context),
            var.autoregressive_infer_cfg(2, None, g_seed=5, top_k=9, more_smooth=True),
            var.autoregressive_infer_cfg(2, [1, 2], g_seed=5, top_p=0.5),
            var.autoregressive_infer_cfg(2, labels, g_seed=6),
        ]

    expected = drawn()
    with SETTINGS[setting]():
        found = drawn()
    assert all(map(torch.equal, found, expected))


@product(1, setting=["device", "float64", "bfloat16"])
def test_random_pipelines_are_the_same_ones(setting):
    expected = random_pipeline("tiny", 3, "cpu", "float32")
    with SETTINGS[setting]():
        found = random_pipeline("tiny", 3, "cpu", "float32")
    assert picture(found) == picture(expected)


def test_tables_that_were_made_under_a_mode_are_not_used_outside_of_it():
    sides, rotary = (1, 2, 3), LlamaRotaryEmbedding(8)
    with torch.inference_mode():
        get_position_ids(1, sides, "cpu", 2)
    assert not get_position_ids(1, sides, "cpu", 2).is_inference()
    with FakeTensorMode():
        get_position_ids(1, sides, "cpu", 1)
    x = torch.zeros(1, 4, 8, requires_grad=True)
    cos, _ = rotary(x, get_position_ids(1, sides, "cpu", 1))
    assert cos.isfinite().all()


def test_a_processors_speed_is_measured_on_the_processor(monkeypatch):
    devices = []
    real = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *a, **k: devices.append(k["device"]) or real(*a, **k))
    device.bfloat16_is_fast.__wrapped__()
    assert set(devices) == {"cpu"}


def test_the_comparison_would_see_a_change():
    model = tiny_pipeline().model
    assert not draw(model, seed=1).equal(draw(model, seed=2))
