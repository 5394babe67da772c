"""Memory counted on tensors that hold nothing."""

from __future__ import annotations

import json

import pytest

from benchmarks.counted_memory import counted, main, peaks, text_encoder_bytes
from hart.evaluation.random_weights import random_config

GIB = 2**30


@pytest.mark.slow
def test_every_layer_takes_as_much_as_another():
    depths = [peaks("tiny", 2, depth) for depth in (2, 3, 4)]
    for name in depths[0]:
        two, three, four = (found[name] for found in depths)
        assert four - three == three - two
    assert depths[0]["weights"] < depths[0]["decoding"]
    keys_values = 2 * 2 * 2 * (6 + 4 + 9 + 16 + 25) * 32 * 2  # the last stage's live for one layer
    weights = depths[1]["weights"] - depths[0]["weights"]
    assert 0 <= depths[1]["drawing"] - depths[0]["drawing"] - weights - keys_values < 20_000


@pytest.mark.slow
def test_four_pictures_fit_into_12_gib_with_an_offloaded_text_encoder():
    found = counted("0.7b-1024", 4)
    transformer = 2 * 732_399_168
    assert transformer < found["weights"] < transformer + 2 * 108_948_355 + 2**20
    context = GIB // 2  # CUDA's own, and workspaces
    assert found["offloaded"] + context < 12 * GIB


@pytest.mark.slow
def test_the_command_writes_every_batch(tmp_path, capsys):
    file = tmp_path / "counted.json"
    assert main(["--shape", "tiny", "--batch-sizes", "1", "2", "--output", str(file)]) == 0
    batches = json.loads(file.read_text())["batches"]
    assert batches["1"]["drawing"] < batches["2"]["drawing"]
    assert batches["1"]["everything"] - batches["1"]["offloaded"] == text_encoder_bytes()
    assert text_encoder_bytes() == pytest.approx(2.87 * GIB, rel=0.01)
    assert random_config("tiny").depth == 3
    assert "text encoder offloaded" in capsys.readouterr().out
