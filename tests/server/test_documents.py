"""The server's page and its Dockerfile do what they say."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from hart.cli.commands import hart_parser
from hart.server.requests import allowed_fields
from tests.server.processes import ROOT, serve

PAGE = ROOT / "docs" / "serve.md"
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


@pytest.mark.slow
def test_the_page_is_followed(checkpoint, port, tmp_path, monkeypatch):
    """The server is started, asked by both clients, and a pipeline becomes an application."""

    def here(text: str) -> str:
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        return text.replace("/path/to/hart/llm", str(checkpoint / "llm"))

    monkeypatch.chdir(tmp_path)
    start, ask = blocks("bash")
    install, command = start.splitlines()
    assert install == 'pip install "hart[server]"'
    client, application = blocks("python")
    with serve(*shlex.split(here(command))[1:], "--port", str(port), "--device", "cpu"):
        exec(compile(here(client), str(PAGE), "exec"), {})
        for seed in (7, 8):
            assert Image.open(f"fox_{seed}.png").text["seed"] == str(seed)
        if shutil.which("curl"):
            done = subprocess.run(here(ask), shell=True, capture_output=True, check=True)
            assert json.loads(done.stdout)["data"][0]["b64_json"]
        script, url = str(ROOT / "examples" / "serve_client.py"), f"http://127.0.0.1:{port}/v1"
        monkeypatch.setattr(sys, "argv", [script, "a fox", "--url", url, "--output", "fox.png"])
        runpy.run_path(script, run_name="__main__")
        assert Image.open("fox.png").text["prompt"] == "a fox"
    exec(compile(here(application), str(PAGE), "exec"), {})


def test_the_page_lists_every_field(pipeline):
    from hart.server.drawing import served_model

    text = PAGE.read_text("utf-8")
    missing = [
        name for name in allowed_fields(served_model(pipeline, "tiny")) if f"`{name}`" not in text
    ]
    assert missing == []


def test_the_page_lists_every_metric(server):
    listed = set(re.findall(r"`(hart_\w+)", PAGE.read_text("utf-8")))
    served = re.findall(r"^# TYPE (hart_\w+) ", server.get("/metrics").text, re.M)
    assert {name for name in served if not name.endswith("_created")} == listed


def test_commands_of_containers_and_clusters_are_understood():
    words = [
        line for block in blocks("console") for line in block.replace("\\\n", " ").splitlines()
    ]
    runs = next(line for line in words if line.startswith("docker run"))
    arguments = json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)[1])
    given = shlex.split(runs.partition(" hart ")[2])
    parsed = hart_parser().parse_args([*arguments[1:], *given])
    assert (parsed.host, parsed.model_path) == ("0.0.0.0", "/model/llm")
    assert "--stop-timeout 130" in runs
    assert parsed.grace_s < 130


def test_what_the_dockerfile_copies_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignored[0] == "*"
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.M):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists()
            assert f"!{name}" in ignored


def test_the_dockerfile_installs_what_the_server_needs():
    assert '".[server]"' in DOCKERFILE
    assert "--constraint constraints.txt" in DOCKERFILE
