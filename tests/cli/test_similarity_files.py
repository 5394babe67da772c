"""``hart merge-similarity`` and ``hart convert-similarity``."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch

from hart.modules.networks.caching.similarity_io import load_similarity, save_similarity
from tests.caching.similarity_files import DEPTH, HART_1024, HART_SHORT, VAR_256, filled


def table(name: str, schedule=HART_1024, images: int = 3, fingerprint: str = "ab", **change) -> str:
    tables = filled(schedule, images)
    for site, value in change.items():
        setattr(tables, site, [[value] * schedule.width for _ in range(DEPTH)])
    save_similarity(name, tables, schedule, fingerprint=fingerprint)
    return name


def document(name: str) -> dict:
    return json.loads(Path(name).read_text())


# merge-similarity


def test_merging_weighs_tables_by_their_images(hart):
    files = table("a.json", images=1, attn=0.9), table("b.json", images=3, attn=0.5)
    code, said = hart("merge-similarity", *files, "--output", "new/both.json")
    assert (code, said.splitlines()) == (0, ["new/both.json: 4 images of 2 tables"])
    merged = document("new/both.json")
    assert merged["attn"][0][0] == pytest.approx(0.6)
    assert (merged["images"], merged["fingerprint"]) == (4, "ab")
    assert merged["library_version"]


def test_files_that_do_not_count_images_need_a_weight(hart):
    files = table("a.json", images=1, attn=0.9), table("b.pt", attn=0.5), table("c.pkl", attn=0.5)
    argv = ["merge-similarity", *files, "--schedule", "hart-1024", "--output", "all.json"]
    code, said = hart(*argv)
    assert code == 2
    assert said.startswith("error: b.pt, c.pkl: unknown number of images; --images N")
    assert not Path("all.json").exists()
    code, said = hart(*argv, "--images", "2")
    assert code == 0, said
    assert document("all.json")["attn"][0][0] == pytest.approx((0.9 + 4 * 0.5) / 5)
    assert document("all.json")["fingerprint"] is None


def test_tables_that_do_not_belong_together_are_refused(hart):
    table("a.json")
    table("b.json", schedule=HART_SHORT)
    code, output = hart("merge-similarity", "a.json", "b.json", "--output", "out.json")
    assert code == 2
    assert len(output.splitlines()) == 1
    assert re.search("different stages: a.json has .*, b.json has", output)
    assert not Path("out.json").exists()


@pytest.mark.parametrize("files", [("a.json", "a.json"), ("a.json", "./out.json")])
def test_a_table_is_not_counted_twice(hart, files):
    table("a.json")
    table("out.json")
    code, said = hart("merge-similarity", *files, "--output", "out.json")
    assert code == 2
    assert "given twice" in said
    assert document("out.json")["images"] == 3


def test_a_damaged_file_is_one_line_and_leaves_no_output(hart):
    table("a.json")
    Path("bad.json").write_text("{")
    code, said = hart("merge-similarity", "a.json", "bad.json", "--output", "out.json")
    assert code == 2
    assert said.startswith("error: bad.json is not a usable .json similarity file")
    assert len(said.splitlines()) == 1
    assert not Path("out.json").exists()


# convert-similarity


@pytest.mark.parametrize("middle", ["table.pt", "table.pkl"])
def test_every_format_goes_there_and_back(hart, middle):
    table("a.json")
    code, said = hart("convert-similarity", "a.json", middle)
    assert code == 0
    assert f"{middle}: 13 of 13 transitions, 2 blocks; " in said
    assert "keeps no" in said
    code, said = hart("convert-similarity", middle, "back.json", "--schedule", "hart-1024")
    assert (code, said) == (0, "back.json: 13 of 13 transitions, 2 blocks\n")
    back = document("back.json")
    assert back["patch_nums"] == list(HART_1024.patch_nums)
    assert (back["images"], back["fingerprint"]) == (0, None)
    for site in ("attn", "mlp"):
        for row, expected in zip(back[site], document("a.json")[site], strict=True):
            assert row == pytest.approx(expected, abs=1e-6)


def test_json_keeps_where_the_table_comes_from(hart):
    table("a.json")
    assert hart("convert-similarity", "a.json", "b.json", "--to-schedule", "1,2,3,4")[0] == 0
    converted = document("b.json")
    assert converted["patch_nums"] == [1, 2, 3, 4]
    assert (converted["images"], converted["fingerprint"]) == (3, "ab")


def test_export_to_var_is_what_var_can_load(hart):
    table("a.json")
    code, said = hart("convert-similarity", "a.json", "var.pt", "--to-schedule", "var-256")
    assert code == 0
    assert "4 of 9 transitions, 2 blocks; nothing is reused at the others" in said
    exported = torch.load("var.pt", weights_only=True)
    assert exported["attn"].shape == exported["mlp"].shape == (DEPTH, 9)
    assert exported["attn"].dtype == torch.float32
    expected = [0.01, 0.02, 0.03, 0.04, 0, 0, 0, 0, 0]
    assert exported["attn"][0].tolist() == pytest.approx(expected)


def test_a_table_of_var_becomes_one_of_hart(hart):
    table("var.pt", schedule=VAR_256)
    code, said = hart("convert-similarity", "var.pt", "hart.pkl", "--to-schedule", "hart-1024")
    assert code == 0
    assert "4 of 13 transitions" in said
    assert len(pickle.loads(Path("hart.pkl").read_bytes())["attn"][0]) == 15
    loaded = load_similarity("hart.pkl", DEPTH, HART_1024)
    assert loaded.tables.mlp[1][:4] == pytest.approx([-0.011, -0.021, -0.031, -0.041])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["short.pt", "b.json"], "9 columns for VAR at 256 pixels, 13 for HART at 1024, found 6"),
        (["a.json", "b.pt", "--schedule", "var-256"], "a.json has the stages 1, 4"),
        (["var.pt", "b.pt", "--schedule", "hart-1024"], "--schedule means 1, 4, 9"),
        (["var.pt", "b.pkl"], "use .json"),
        (["a.json", "b.txt"], "found '.txt'"),
        (["a.json", "./a.json"], "given twice"),
        (["a.json", "b.pt", "--to-schedule", "6,11"], "no transition between the stages 36, 121"),
        (["a.json", "b.pt", "--to-schedule", "4,2"], "expected hart-1024, var-256 or increasing"),
        (["missing.json", "b.pt"], "missing.json"),
    ],
)
def test_what_cannot_be_converted_is_one_line(hart, argv, said):
    table("a.json")
    table("short.pt", schedule=HART_SHORT)
    table("var.pt", schedule=VAR_256)
    before = sorted(Path().iterdir())
    code, output = hart("convert-similarity", *argv)
    assert code == 2
    assert said in output
    assert len(output.splitlines()) == 1
    assert sorted(Path().iterdir()) == before
