"""Processes that die and processes that work together draw what one undisturbed process draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.batch.batches import GOOD, arguments, outcome, write_prompts
from tests.pipeline.checkpoint_folder import make_checkpoint

pytest.importorskip("accelerate", reason="the extra distributed is not installed")
if not hasattr(os, "fork"):
    pytest.skip("the processes are forks", allow_module_level=True)

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
TIMELESS = ("images", "rows", "others")


def python(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory) -> dict:
    done = python("-m", "tests.batch.forked", tmp_path_factory.mktemp("forked"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def timeless(run: dict) -> dict:
    return {name: run[name] for name in TIMELESS}


def test_killed_before_any_file_gets_its_name_nothing_is_lost_torn_or_drawn_twice(scenarios):
    runs = scenarios["killed"]
    assert len(runs) == 12  # settings, rows, images, records and report
    for run in runs:
        assert run["died"] == -9
        assert run["code"] == 0
        assert run["recorded"] + run["drawn_now"] == 3
        assert timeless(run) == scenarios["few"]
    assert {run["recorded"] for run in runs} == {0, 2, 3}


@pytest.mark.parametrize("name", ["drawn", "calibrated"])
def test_two_and_three_processes_draw_the_images_of_one(scenarios, name):
    runs = scenarios[name]
    assert [run["processes"] for run in runs] == [1, 2, 3]
    assert [row["index"] for row in runs[0]["rows"]] == list(GOOD)
    for run in runs[1:]:
        assert timeless(run) == timeless(runs[0])


@pytest.mark.parametrize("name", ["drawn", "calibrated"])
def test_their_calibration_is_that_of_one_to_the_last_bit(scenarios, name):
    tables = [run["table"] for run in scenarios[name]]
    assert tables[0]["images"] == len(GOOD)
    assert tables[1] == tables[0]
    assert tables[2] == tables[0]


def test_a_process_that_dies_is_reported_and_the_next_run_does_its_work(scenarios):
    lost = scenarios["lost"]
    assert "process 1" in lost["said"]
    assert "SIGKILL" in lost["said"]
    assert 1 <= lost["drawn_now"] <= len(GOOD)
    assert lost["images"] == scenarios["whole"]["images"]


def test_torchrun_around_the_same_command(tmp_path):
    make_checkpoint(tmp_path / "checkpoint")
    prompts = write_prompts(tmp_path / "prompts.txt", ("a red fox", "two boats", "a tree"))
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert python("-m", "hart", *arguments(prompts, alone)).returncode == 0
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hart")
    done = python(*launcher, *arguments(prompts, together))
    assert done.returncode == 0, done.stderr
    assert outcome(together) == outcome(alone)
    assert json.loads((together / "batch_report.json").read_text())["processes"] == 2
