"""What the page's buttons do, without a page."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from hart.demo.captions import advice
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.web.handlers import Handlers
from hart.web.requests import CUSTOM
from tests.pipeline.checkpoint_folder import STAGES

PROMPTS = "a red fox\n<b>two</b> boats"


def draw(handlers, **fields) -> list[dict]:
    values = {
        "prompts": PROMPTS,
        "seed": 3,
        "cfg_scale": 4.5,
        "preset": "original",
        "stages": [],
        "sites": [],
        "threshold": 0.7,
        "adaptive": False,
        "interpolation": "bilinear",
        "compare": False,
        "previews": True,
        **fields,
    }
    return [updates for updates in handlers.draw(**values) if updates]


def calibrate(handlers, prompts=PROMPTS, seed=1, add=False, preset="original") -> list[dict]:
    return [u for u in handlers.calibrate(prompts, seed, 4.5, add, preset) if u]


def test_a_comparison_leaves_pictures_tables_and_a_report(handlers):
    *before, last = updates = draw(handlers, compare=True)
    words = [words for update in updates for words in update.values() if isinstance(words, str)]
    assert "<b>two</b>" not in "".join(words)  # what a visitor wrote is escaped
    assert before[0]["gallery"] == []
    assert before[0]["columns"] == 3
    captions = [caption for _, caption in last["gallery"]]
    assert captions[:2] == ["original, seed 3", "no-cache, seed 3"]
    assert captions[2].startswith("difference × 4, ")
    assert len(captions) == 6
    files = {Path(file).name: Path(file) for file in last["files"]}
    assert all(file.is_relative_to(handlers.folder) for file in files.values())
    with Image.open(files["001-original.png"]) as picture:
        assert (picture.text["prompt"], picture.text["seed"]) == ("<b>two</b> boats", "4")
    with files["images.csv"].open() as rows:
        first, second = csv.DictReader(rows)
    assert (first["prompt"], second["seed"]) == ("a red fox", "4")
    assert float(first["original (s)"]) > 0
    report = json.loads(files["report.json"].read_text())
    quality = report["distance_from_no_cache"][0]
    assert float(first["PSNR (dB)"]) == quality["psnr_db"]
    assert float(first["SSIM"]) == quality["ssim"]
    assert report["runs"]["original"]["reused_by_layer"]["attn"]["64"] == [1.0, 1.0, 1.0]
    assert report["runs"]["original"]["reused_by_layer"]["mlp"]["64"] == [None, 0.0, 0.0]
    assert report["runs"]["original"]["reused_by_layer"]["mlp"]["4"] == [None, None, None]
    with zipfile.ZipFile(files["all.zip"]) as archive:
        assert set(archive.namelist()) == set(files) - {"all.zip"}


def test_advice_is_there_from_the_start_to_the_end_and_escaped(handlers):
    advised = Handlers(handlers.studio, "a tiny model", handlers.folder, 3, advise=advice)
    updates = draw(advised, prompts="a red fox\n<b>two</b> boats")
    told = "&#x27;&lt;b&gt;two&lt;/b&gt; boats&#x27; names nothing that the demo knows; it knows:"
    for cards in (updates[0]["cards"], updates[-1]["cards"]):
        assert told in cards
        assert "alarm clock, alien, apple, " in cards
    assert "knows" not in draw(advised, prompts="a red fox")[-1]["cards"]


def test_pictures_grow_stage_by_stage_and_the_table_of_stages_adds_up(handlers):
    *_, last = updates = draw(handlers)
    strips = [u["strip"].count("<figure>") for u in updates if u.get("strip")]
    assert strips == [2 * (si + 1) for si in range(len(STAGES))]
    assert [len(u["gallery"]) for u in updates if u.get("gallery")] == [2] * len(STAGES) + [2]
    bars = [u["status"] for u in updates if "<progress" in u.get("status", "")]
    assert len(bars) == len(STAGES)
    assert "images 1 to 2 of 2, stage of 64 tokens" in bars[-1]
    file = next(file for file in last["files"] if file.endswith("stages.csv"))
    with Path(file).open() as lines:
        rows = {row["part"]: row for row in csv.DictReader(lines)}
    total = float(rows.pop("total")["original (s)"])
    assert sum(float(row["original (s)"]) for row in rows.values()) == pytest.approx(total)
    assert [name for name in rows if name.startswith("stage")] == [f"stage {n}" for n in STAGES]
    assert (rows["stage 64"]["attention reused"], rows["stage 64"]["MLP reused"]) == ("1.0", "0.0")
    assert 0 < float(rows["stage 64"]["multiply-adds saved"]) < 1


def test_previews_do_not_outlive_the_drawing(handlers):
    seen = set()
    for updates in handlers.draw(
        PROMPTS, 3, 4.5, "original", [], [], 0.7, False, "bilinear", True, True
    ):
        for file, _ in updates.get("gallery") or []:
            assert Path(file).is_file()
            seen.add(Path(file))
        folders = list(handlers.folder.iterdir())
        previews = [file for file in seen if file.name.startswith("preview-") and file.exists()]
        assert len(previews) <= 2 * 2 * 2  # of two images, two configurations: two each
    (folder,) = folders
    assert len([file for file in seen if file.name.startswith("preview-")]) > 20
    assert not list(folder.glob("preview-*"))


def test_without_previews_there_are_results_only(handlers):
    updates = draw(handlers, previews=False)
    assert not any(u.get("strip") for u in updates)
    assert not any(file.endswith("stage_by_stage.png") for file in updates[-1]["files"])


def test_custom_caching_that_reuses_nothing_says_why(handlers):
    last = draw(handlers, preset=CUSTOM, stages=[64], sites=["mlp"], threshold=0.95)[-1]
    assert "Nothing was reused: mlp: every similarity is at or below the threshold" in last["cards"]


def test_comparing_the_reference_with_itself_draws_once(handlers):
    last = draw(handlers, preset="no-cache", compare=True)[-1]
    assert len(last["gallery"]) == 2
    assert "This is what the others are compared with." in last["cards"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompts": ""}, "at least one prompt"),
        ({"seed": None}, "seed must be a whole number"),
        ({"preset": "<i>"}, "Unknown preset &#x27;&lt;i&gt;&#x27;"),
        ({"preset": CUSTOM, "stages": [5]}, "Stage 5 cannot reuse"),
    ],
)
def test_a_mistake_is_one_update_with_a_reason(handlers, fields, words):
    (update,) = draw(handlers, **fields)
    assert list(update) == ["status"]
    assert 'role="alert"' in update["status"]
    assert words in update["status"]


def test_a_failure_is_told_and_the_next_drawing_works(handlers, monkeypatch, caplog):
    with monkeypatch.context() as broken:
        broken.setattr(handlers.studio.pipeline.model, "decode_feature_map", lambda *_: 1 / 0)
        assert "This failed (ZeroDivisionError" in draw(handlers)[-1]["status"]
    assert "a request failed" in caplog.text
    assert "Done." in draw(handlers)[-1]["status"]


def test_a_folder_that_is_gone_bad_is_told(handlers):
    handlers.folder.parent.mkdir(exist_ok=True)
    handlers.folder.write_text("not a folder")
    assert 'role="alert"' in draw(handlers)[-1]["status"]


def test_a_preset_fills_the_fields_that_custom_needs(handlers):
    assert handlers.preset_choices() == [*CACHE_PRESETS, CUSTOM]
    assert handlers.preset_fields(CUSTOM) == ()
    fields = handlers.preset_fields("attn-only")
    assert fields == ([36, 64], ["attn"], 0.7, False, "bilinear")


def test_a_calibration_is_shown_kept_and_undone(handlers):
    assert "similarities of 2 images" in handlers.about()
    *progress, last = calibrate(handlers, "a\nb\nc")
    assert "<progress" in progress[-1]["status"]
    assert "similarities of 3 images" in last["about"]
    table, heat_map = map(Path, last["files"])
    assert json.loads(table.read_text())["images"] == 3
    with Image.open(heat_map) as picture:
        assert picture.width > 300
    *_, restored = handlers.restore()
    assert "similarities of 2 images" in restored["about"]


def test_a_calibrations_mistake_is_one_update(handlers):
    (update,) = calibrate(handlers, preset="fastest")
    assert 'role="alert"' in update["status"]
