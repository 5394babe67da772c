"""The session for a GPU, rehearsed on a CPU; steps that fail, hang or no longer fit."""

from __future__ import annotations

import json
import time

import pytest
import torch

from benchmarks import gpu_session
from benchmarks.gpu_parts import LeftOutError, Session
from benchmarks.gpu_session import STEPS, Step, main, run

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_whole_session_is_rehearsed_on_a_cpu(tmp_path, capsys):
    arguments = ["--shape", "tiny", "--device", "cpu", "--dtype", "bfloat16"]
    assert main([*arguments, "--out", str(tmp_path), "--budget", "1000"]) == 0
    assert len(list(tmp_path.iterdir())) <= 8
    steps = json.loads((tmp_path / "session.json").read_text())["steps"]
    assert list(steps) == [step.name for step in STEPS]
    assert {found["status"] for found in steps.values()} <= {"ok", "left out"}
    stages = steps["truth"]["stages"]
    assert [stage["tokens"] for stage in stages] == [1, 4, 9, 16, 25, 49]
    assert all(0 < stage["relative_error"] < 0.1 and stage["finite"] for stage in stages)
    assert steps["truth"]["same_call_twice_equal"]
    for batch in steps["table"]["batches"].values():
        assert len(batch["paths"]) == 8
        assert not batch["failed"]
        assert all(p["limit_s"] <= p["median_s"]["total"] for p in batch["paths"].values())
    assert steps["profiler"]["top"]
    assert "| hybrid, ceiling |" in capsys.readouterr().out


def found_by(work, tmp_path, monkeypatch, budget_s: float = 10) -> dict:
    """What a session of one step and one after it reports of both."""
    steps = (Step("one", 1, work), Step("next", 0, lambda session: {"reached": True}))
    monkeypatch.setattr(gpu_session, "STEPS", steps)
    session = Session(tmp_path, "tiny", CPU, torch.float32)
    run(session, ["one", "next"], budget_s)
    return json.loads((tmp_path / "session.json").read_text())["steps"]


def test_a_step_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch):
    def fails(session):
        raise RuntimeError("no memory")

    found = found_by(fails, tmp_path, monkeypatch)
    assert found["one"]["status"] == "failed"
    assert found["one"]["why"] == "RuntimeError: no memory"
    assert found["one"]["traceback"][-1] == "RuntimeError: no memory"
    assert found["next"]["reached"]
    assert "| one | failed |" in (tmp_path / "session.md").read_text()


def test_a_step_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_session, "GRACE_S", -9.9)
    found = found_by(lambda session: time.sleep(60), tmp_path, monkeypatch)
    assert found["one"]["why"].startswith("TooLongError: stopped after")
    assert found["next"]["reached"]


def test_what_no_longer_fits_or_has_nothing_to_do_is_left_out(tmp_path, monkeypatch):
    def nothing(session):
        raise LeftOutError("nothing to do")

    found = found_by(lambda session: {}, tmp_path, monkeypatch, budget_s=0.5)
    assert found["one"] == {"status": "left out", "why": "0 s left, it may need 1"}
    found = found_by(nothing, tmp_path, monkeypatch)
    assert (found["one"]["status"], found["one"]["why"]) == ("left out", "nothing to do")
