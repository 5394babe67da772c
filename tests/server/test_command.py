"""``hart serve`` as a command: mistakes are one line, and what is drawn is finished at its end."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from hart.cli.main import main
from tests.server.conftest import PATIENCE_S
from tests.server.processes import serve


@pytest.fixture
def refused(checkpoint, capsys):
    def run(*arguments: str) -> str:
        argv = ["serve", "--model_path", str(checkpoint), "--device", "cpu", "--quiet"]
        assert main([*argv, *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_package_names_the_extra(refused, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert f'needs the package {package}, which is not installed: pip install "hart[server]"' in (
        refused()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "65536"], "--port must be at most 65535"),
        (["--max_waiting", "0"], "expected an integer from 1"),
        (["--grace_s", "-1"], "expected an integer from 0"),
        (["--api-key", ""], "the API key must be printable ASCII"),
        (["--api-key", " key"], "the API key must be printable ASCII"),
        (["--calibration"], "hart serve draws only; hart generate calibrates"),
        (["--sim-path", "nowhere.json"], "nowhere.json"),
        (["--cache-preset", "orignal"], "invalid choice: 'orignal'"),
        (["--host", "no.such.host.invalid"], "cannot be served at no.such.host.invalid"),
    ],
)
def test_mistakes(refused, arguments, words):
    assert words in refused(*arguments)


def test_a_port_that_is_taken(refused):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"cannot be served at 127.0.0.1, port {port}" in refused("--port", str(port))


# --- processes --------------------------------------------------------------------------------


@contextlib.contextmanager
def process(checkpoint: Path, port: int, *arguments: str) -> Iterator[subprocess.Popen]:
    """A server with a key, at a port."""
    empty = checkpoint / "no_instruction.txt"
    empty.touch()
    options = ["--device", "cpu", "--port", str(port), "--system_prompt_file", str(empty)]
    command = ["serve", "--model_path", str(checkpoint), *options, *arguments]
    with serve(*command, HART_API_KEY="secret") as (server, line):
        assert line == f"http://127.0.0.1:{port}/v1 serves tiny; Ctrl-C stops it\n"
        yield server


def client(port: int, **options) -> openai.OpenAI:
    url = f"http://127.0.0.1:{port}/v1"
    return openai.OpenAI(base_url=url, api_key="secret", timeout=PATIENCE_S, **options)


def wait_until_it_draws(port: int, drawn: Future) -> None:
    text = "hart_drawing_images 0.0"
    while "hart_drawing_images 0.0" in text and not drawn.done():
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S).text


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_what_is_drawn_is_finished(checkpoint, port, stop):
    with process(checkpoint, port, "--batch_size", "1") as server, ThreadPoolExecutor(1) as people:
        drawn = people.submit(client(port).images.generate, prompt="a fox", n=10)
        wait_until_it_draws(port, drawn)
        server.send_signal(stop)
        assert len(drawn.result(PATIENCE_S).data) == 10
        assert server.wait(PATIENCE_S) == 0
        assert server.stdout.read().splitlines()[-1] == "stopped"


@pytest.mark.slow
def test_a_client_survives_a_server_that_is_killed_and_started_again(checkpoint, port):
    patient = client(port, max_retries=20)
    with process(checkpoint, port, "--batch_size", "1") as server, ThreadPoolExecutor(1) as people:
        drawn = people.submit(patient.images.generate, prompt="a fox", n=10)
        wait_until_it_draws(port, drawn)
        server.kill()
        server.wait(PATIENCE_S)
        with process(checkpoint, port):
            assert len(drawn.result(PATIENCE_S).data) == 10
