"""The examples run: each script, and the notebook from top to bottom."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys

import pytest
from PIL import Image

from tests.demo_stand_in import put_in_the_demos_place
from tests.documents import ROOT

EXAMPLES = ROOT / "examples"
ELSEWHERE = {"serve_client.py"}
"""Run by tests/server/test_documents.py."""
RUN = {"own_loop.py", "batch.py", "ray_data_inference.py", "ray_serve.py", "tour.ipynb"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, and in the demo's place a tiny model."""
    put_in_the_demos_place(tmp_path / "checkpoint", monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_run():
    assert {file.name for file in EXAMPLES.iterdir() if file.is_file()} == RUN | ELSEWHERE


@pytest.mark.slow
def test_the_model_alone_draws(folder, monkeypatch, capsys):
    run(monkeypatch, "own_loop.py", "a fox", "a pig")
    first, second = (Image.open(folder / f"{seed}.png").tobytes() for seed in (1, 2))
    assert first != second
    assert "2 pictures" in capsys.readouterr().out


@pytest.mark.slow
def test_a_list_of_prompts_is_drawn(folder, monkeypatch, capsys):
    (folder / "prompts.txt").write_text("a fox\na pig\n" * 3)
    run(monkeypatch, "batch.py", "prompts.txt", "pictures")
    assert len(list((folder / "pictures").glob("*.png"))) == 6
    assert "6 a pig" in capsys.readouterr().out


@pytest.mark.slow
def test_ray_data_draws(folder):
    pytest.importorskip("ray.data")
    (folder / "prompts.jsonl").write_text('{"prompt": "a fox"}\n{"prompt": "a pig", "seed": 7}\n')
    script, places = str(EXAMPLES / "ray_data_inference.py"), ["prompts.jsonl", "images"]
    command = [sys.executable, script, *places, "--model_path", str(folder / "checkpoint")]
    path = {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env={**os.environ, **path}, timeout=300)
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / "images").to_pylist()
    assert {(row["prompt"], row["seed"]) for row in table} == {("a fox", 1), ("a pig", 7)}
    assert all(row["png"].startswith(b"\x89PNG") for row in table)


@pytest.mark.slow
def test_ray_serve_answers(folder, monkeypatch):
    serve = pytest.importorskip("ray.serve")
    httpx = pytest.importorskip("httpx")
    start, asked = serve.run, {"prompt": "a fox", "seed": 3}
    monkeypatch.setattr(serve, "run", lambda replicas, blocking: start(replicas))
    try:
        place = ["--model_path", str(folder / "checkpoint"), "--replicas", "1", "--port", "8123"]
        run(monkeypatch, "ray_serve.py", *place)
        url = "http://127.0.0.1:8123/v1/images/generations"
        answer = httpx.post(url, json=asked, timeout=120)
        assert answer.json()["data"][0]["seed"] == 3
    finally:
        serve.shutdown()


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(folder, monkeypatch):
    """In a kernel of its own, which is told first what stands in the demo's place."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("skimage")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    stand_in = f"""
import pathlib, hart.demo
hart.demo.DEMO_CHECKPOINT = pathlib.Path({str(folder / "checkpoint")!r})
"""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(stand_in))
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert (folder / "similarity.json").is_file()


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text("utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
