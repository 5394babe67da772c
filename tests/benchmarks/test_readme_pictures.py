"""The pictures of the README are drawn, small enough, and say how long they took."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import benchmarks.common
from benchmarks import readme_pictures
from tests.demo_stand_in import put_in_the_demos_place

pytest.importorskip("matplotlib")
pytest.importorskip("skimage")

BLACK, WHITE = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")


def test_a_sheet_has_a_cell_per_picture():
    page = readme_pictures.sheet([[("one", [(BLACK, "a"), (WHITE, "b")])], [("two", [])]], 40)
    side, top = 40 + readme_pictures.GAP, readme_pictures.LINE + 20
    assert page.getpixel((2 * readme_pictures.GAP + 20, top)) == (0, 0, 0)
    assert page.getpixel((2 * readme_pictures.GAP + side + 20, top)) == (255, 255, 255)
    assert page.width > 2 * side


@pytest.mark.slow
def test_all_of_them_are_drawn(tmp_path, monkeypatch, capsys):
    demo = put_in_the_demos_place(tmp_path / "demo", monkeypatch)
    (demo / "llm" / "cache_similarity.json").write_bytes(
        (readme_pictures.DEMO_CHECKPOINT / "llm" / "cache_similarity.json").read_bytes()
    )
    monkeypatch.setattr(benchmarks.common, "DEMO_CHECKPOINT", demo)
    output, folder = tmp_path / "numbers.json", tmp_path / "images"
    places = ["--output", str(output), "--folder", str(folder), "--quiet", "--rounds", "1"]
    drawn = ["balanced", "hybrid", "--plotted", "ultra-fast", "--prompts", "a fox", "a pig"]
    assert readme_pictures.main([*drawn, *places]) == 0
    files = {file.name: file for file in folder.iterdir()}
    assert sorted(files) == ["comparison.webp", "similarity.webp", "speed.webp", "stages.webp"]
    assert all(file.stat().st_size <= readme_pictures.MAX_BYTES for file in files.values())
    cells = Image.open(files["comparison.webp"]).width // readme_pictures.SHEET_CELL
    assert cells == 6  # two prompts, each without caching and with what was asked for
    found = json.loads(output.read_text())["configurations"]
    assert list(found) == ["no-cache", "balanced", "hybrid", "ultra-fast"]
    assert "| balanced |" in capsys.readouterr().out
