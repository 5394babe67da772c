"""``hart web``: a user's mistake is one line and exit code 2, before anything is served."""

from __future__ import annotations

import socket
import sys

import pytest

from hart.cli.main import main
from hart.cli.prompts import DEMO_PROMPTS
from hart.cli.web import page_options


@pytest.fixture
def refused(web_checkpoint, tmp_path, capsys):
    def run(*arguments: str) -> str:
        argv = ["web", "--model_path", str(web_checkpoint), "--device", "cpu"]
        assert main([*argv, "--output_dir", str(tmp_path / "out"), "--quiet", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_a_missing_gradio_names_the_extra(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert 'pip install "hart[web]"' in refused()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "0"], "expected an integer from 1, got '0'"),
        (["--port", "65536"], "--port must be at most 65535"),
        (["--max_waiting", "0"], "expected an integer from 1"),
        (["--shield_model_path", "nowhere"], "nowhere: no such folder"),
        (["--sim-path", "nowhere.json"], "nowhere.json"),
        (["--output_dir", "/dev/null/out"], "/dev/null"),
        (["--auth", "somebody"], "--auth must be USER:PASSWORD"),
        (["--auth", ":secret"], "--auth must be USER:PASSWORD"),
        (["--auth", "somebody:"], "--auth must be USER:PASSWORD"),
        (["--allowed_host", "https://hart.example"], "--allowed_host must be a host name"),
        (["--allowed_host", "hart.example:80"], "--allowed_host must be a host name"),
        (["--root_path", "hart"], "--root_path must be a path such as /hart, got 'hart'"),
        (["--keep_requests", "0"], "expected an integer from 1"),
        (["--keep_hours", "nan"], "expected a number within [0.01, 1e+06], got 'nan'"),
        (["--keep_hours", "-1"], "expected a number within [0.01, 1e+06], got '-1'"),
        (["--host", "no.such.host.invalid"], "cannot be served at no.such.host.invalid"),
    ],
)
def test_mistakes(refused, arguments, words):
    pytest.importorskip("gradio")
    assert words in refused(*arguments)


def test_a_loop_of_links(refused, tmp_path):
    pytest.importorskip("gradio")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert "symbolic links" in refused("--output_dir", str(tmp_path / "one"))


def test_a_port_that_is_taken(refused):
    pytest.importorskip("gradio")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"cannot be served at 127.0.0.1, port {port}" in refused("--port", str(port))


def test_another_checkpoint_gets_other_prompts():
    class Arguments:
        model_path, max_waiting, visitors_calibrate = None, 3, False

    demo = page_options(Arguments)
    Arguments.model_path = "elsewhere"
    assert list(demo.prompts) == list(DEMO_PROMPTS)
    assert not {*page_options(Arguments).prompts} & {*DEMO_PROMPTS}
    assert len(demo.calibration_prompts) == len(page_options(Arguments).calibration_prompts) == 8
    assert demo.max_waiting == 3
    assert demo.calibration is False
