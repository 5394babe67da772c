"""Fixed texts, the JSON cache and the choice of device and dtype."""

from __future__ import annotations

import hashlib
import os

import pytest
import torch

import hart.utils as utils
from hart.utils import default_device, get_device, lru_json_load, resolve_dtype
from hart.utils.device import bfloat16_is_fast


def test_limits_and_prompts():
    assert utils.max_seq_len == 10240
    assert utils.max_batch_size == 16
    assert len(utils.default_prompts) >= 10
    assert all(isinstance(prompt, str) and prompt for prompt in utils.default_prompts)
    assert len(set(utils.default_prompts)) == len(utils.default_prompts)


def test_instruction_ends_where_the_user_text_begins_and_is_not_harts():
    text = utils.llm_system_prompt
    assert text.endswith("User Prompt:\n")
    assert text.count("User Prompt: ") == 2
    assert text.isascii()
    assert not utils.is_hart_system_prompt(text)


def test_harts_instruction_is_recognised_by_its_hash(monkeypatch):
    assert len(utils.hart_system_prompt_sha256) == 64
    stand_in = "Zeichne Äpfel.\n"
    digest = hashlib.sha256(stand_in.encode()).hexdigest()
    monkeypatch.setattr("hart.utils.constants.hart_system_prompt_sha256", digest)
    assert utils.is_hart_system_prompt(stand_in)
    assert not utils.is_hart_system_prompt(stand_in.strip())


def test_json_is_read_again_after_a_change_and_callers_do_not_share_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1]}')
    first = lru_json_load(path)
    first["a"].append(2)
    assert lru_json_load(str(path)) == {"a": [1]}
    path.write_text('{"a": [3]}')
    os.utime(path, ns=(1, 1))
    assert lru_json_load(path) == {"a": [3]}


@pytest.mark.parametrize(
    ("cuda", "mps", "default", "upstream"),
    [
        (True, True, "cuda", "cuda"),
        (False, True, "mps", "cpu"),
        (False, False, "cpu", "cpu"),
    ],
)
def test_device_is_chosen_at_call_time(monkeypatch, cuda, mps, default, upstream):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_device() == torch.device(default)
    assert get_device() == upstream


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_names_and_dtypes_resolve_alike(name):
    dtype = getattr(torch, name)
    assert resolve_dtype(name, "cpu") is dtype
    assert resolve_dtype(dtype, torch.device("cpu")) is dtype


def test_auto_is_float16_on_cuda_and_float32_elsewhere(monkeypatch):
    assert resolve_dtype("auto", "cpu") is torch.float32
    monkeypatch.setattr("hart.utils.device._probe", lambda dtype, device: None)
    assert resolve_dtype("auto", "cuda:0") is torch.float16
    assert resolve_dtype("auto", "mps") is torch.float32


@pytest.mark.parametrize(("quick", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_fast_is_bfloat16_where_the_cpu_is_quick_at_it(monkeypatch, quick, dtype):
    monkeypatch.setattr("hart.utils.device.bfloat16_is_fast", lambda: quick)
    monkeypatch.setattr("hart.utils.device._probe", lambda dtype, device: None)
    assert resolve_dtype("fast", "cpu") is dtype
    assert resolve_dtype("fast", "cuda:0") is torch.float16


@pytest.mark.parametrize("half", [0.5, 2.0])
def test_other_work_on_the_machine_does_not_decide_what_is_fast(monkeypatch, half):
    held_up = iter([8.0, 1.0, half, 8.0] + [9.0] * 100)  # bfloat16, float32, bfloat16, ...
    monkeypatch.setattr("hart.utils.device._matmul_seconds", lambda dtype: next(held_up))
    assert bfloat16_is_fast.__wrapped__() is (half < 1)


@pytest.mark.parametrize("dtype", ["fp8", "", torch.float64, torch.int64, None, 16])
def test_other_dtypes_are_refused_with_the_list_of_known_ones(dtype):
    with pytest.raises(ValueError, match="float32, bfloat16, float16, auto and fast"):
        resolve_dtype(dtype, "cpu")


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, AssertionError])
def test_a_dtype_that_the_device_cannot_multiply_is_refused(monkeypatch, kind):
    def fail(*args, **kwargs):
        raise kind("not implemented for Half")

    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(ValueError, match=r"cpu cannot compute in torch\.float16"):
        resolve_dtype("float16", "cpu")
