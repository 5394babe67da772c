"""What the page's buttons do, without a page."""

from __future__ import annotations

import csv
import json
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from hart.demo.captions import advice
from hart.modules.networks.caching.plan_files import StoredPlan
from hart.web.choices import CUSTOM, TUNED
from hart.web.handlers import Handlers
from tests.pipeline.checkpoint_folder import STAGES

PROMPTS = "a red fox\n<b>two</b> boats"


def draw(handlers, **fields) -> list[dict]:
    values = {
        "prompts": PROMPTS,
        "seed": 3,
        "cfg_scale": 4.5,
        "quality": "balanced",
        "base": "original",
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
    assert not before[0]["gallery"]
    assert before[0]["columns"] == 3
    captions = [caption for _, caption in last["gallery"]]
    assert captions[:2] == ["balanced, seed 3", "without caching, seed 3"]
    assert captions[2].startswith("difference × 4, ")
    assert len(captions) == 6
    folder = Path(last["download"]).parent
    assert folder.parent == handlers.folder
    names = [[Path(file).name for file in pair] for pair in last["pairs"]]
    assert names == [[f"{i:03d}-balanced.png", f"{i:03d}-no-cache.png"] for i in range(2)]
    files = {file.name: file for file in folder.iterdir()}
    with Image.open(files["001-balanced.png"]) as picture:
        assert (picture.text["prompt"], picture.text["seed"]) == ("<b>two</b> boats", "4")
    with files["images.csv"].open() as rows:
        first, second = csv.DictReader(rows)
    assert (first["prompt"], second["seed"]) == ("a red fox", "4")
    assert float(first["balanced (s)"]) > 0
    report = json.loads(files["report.json"].read_text())
    quality = report["distance_from_no_cache"][0]
    assert float(first["PSNR (dB)"]) == quality["psnr_db"]
    assert float(first["SSIM"]) == quality["ssim"]
    assert report["runs"]["balanced"]["reused_by_layer"]["attn"]["64"] == [1.0, 1.0, 1.0]
    assert report["runs"]["balanced"]["reused_by_layer"]["mlp"]["64"] == [None, 0.0, 0.0]
    assert report["runs"]["balanced"]["reused_by_layer"]["mlp"]["4"] == [None, None, None]
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
    bars = [u["status"] for u in updates if "progressbar" in u.get("status", "")]
    assert len(bars) == len(STAGES)
    assert "pictures 1 to 2 of 2, stage of 64 tokens" in bars[-1]
    assert "width:100.00%" in bars[-1]
    with (Path(last["download"]).parent / "stages.csv").open() as lines:
        rows = {row["part"]: row for row in csv.DictReader(lines)}
    total = float(rows.pop("total")["balanced (s)"])
    assert sum(float(row["balanced (s)"]) for row in rows.values()) == pytest.approx(total)
    assert [name for name in rows if name.startswith("stage")] == [f"stage {n}" for n in STAGES]
    assert (rows["stage 64"]["attention reused"], rows["stage 64"]["MLP reused"]) == ("1.0", "0.0")
    assert 0 < float(rows["stage 64"]["multiply-adds saved"]) < 1


def test_previews_do_not_outlive_the_drawing(handlers):
    seen = set()
    for updates in handlers.draw(
        PROMPTS, 3, 4.5, "balanced", "original", [], [], 0.7, False, "bilinear", True, True
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
    assert not (Path(updates[-1]["download"]).parent / "stage_by_stage.png").exists()


def test_custom_caching_that_reuses_nothing_says_why(handlers):
    last = draw(handlers, quality=CUSTOM, stages=[64], sites=["mlp"], threshold=0.95)[-1]
    assert "Nothing was reused: mlp: every similarity is at or below the threshold" in last["cards"]


def test_comparing_the_reference_with_itself_draws_once(handlers):
    last = draw(handlers, quality="lossless", compare=True)[-1]
    assert len(last["gallery"]) == 2
    assert last["pairs"] == []
    assert "This is what the others are compared with." in last["cards"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompts": ""}, "at least one prompt"),
        ({"seed": None}, "seed must be a whole number"),
        ({"quality": "<i>"}, "Unknown quality &#x27;&lt;i&gt;&#x27;"),
        ({"quality": CUSTOM, "base": "<i>"}, "Unknown preset &#x27;&lt;i&gt;&#x27;"),
        ({"quality": CUSTOM, "stages": [5]}, "Stage 5 cannot reuse"),
    ],
)
def test_a_mistake_is_one_update_with_a_reason(handlers, fields, words):
    (update,) = draw(handlers, **fields)
    assert not any(value for name, value in update.items() if name != "status")
    assert {"gallery", "pairs", "strip", "cards", "tables", "download"} < set(update)
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


def test_a_quality_fills_the_fields_and_says_what_it_does(handlers):
    about, base, *fields = handlers.chosen("balanced", "attn-only")
    assert "the preset original, as this checkpoint has no plan" in about
    assert about.count('reused" style=') == 6
    assert [base, *fields] == ["original", [36, 64], ["attn", "mlp"], 0.7, False, "bilinear"]
    about, *fields = handlers.based("attn-only", *fields)
    assert "attn-only as set below." in about
    assert fields == [[36, 64], ["attn"], 0.7, False, "bilinear"]
    assert handlers.chosen(CUSTOM, "attn-only", *fields)[1:] == ["attn-only", *fields]
    assert 'role="alert"' in handlers.described(CUSTOM, "attn-only", [5], *fields[1:])


def test_samples_are_there_before_anybody_asks(handlers):
    assert handlers.samples() == ""
    handlers.studio.warm_up(["a <fox>"], handlers.choices.qualities["balanced"], 3)
    deadline = time.monotonic() + 30
    while not handlers.studio.is_warm and time.monotonic() < deadline:
        time.sleep(0.01)
    assert handlers.samples().count("<figure>") == 1
    assert "a &lt;fox&gt;" in handlers.samples()
    handlers.studio.pipeline.model.set_cache_config("original")
    ((_, image),) = handlers.studio.samples
    assert image.tobytes() == handlers.studio.pipeline("a <fox>", seed=3).images[0].tobytes()


def test_a_calibration_is_shown_kept_and_undone(handlers):
    assert "similarities of 2 images" in handlers.about()
    *progress, last = calibrate(handlers, "a\nb\nc")
    assert "progressbar" in progress[-1]["status"]
    assert "similarities of 3 images" in last["about"]
    assert json.loads(Path(last["download"]).read_text())["images"] == 3
    with Image.open(last["heat_map"]) as picture:
        assert picture.width > 300
    *_, restored = handlers.restore()
    assert "similarities of 2 images" in restored["about"]


def test_a_calibrations_mistake_is_one_update(handlers):
    (update,) = calibrate(handlers, preset="fastest")
    assert 'role="alert"' in update["status"]


def test_a_plan_is_found_with_progress_offered_and_drawn_with(handlers):
    *progress, last = [u for u in handlers.tune("a\nb\nc", 1, 4.5, "target_saved", 0.3) if u]
    assert "Done. The plan" in last["status"]
    told = [update["status"] for update in progress]
    for step in ("measuring: ", "pictures: ", "refining: ", "verifying: "):
        assert any(step in status and "progressbar" in status for status in told), step
    plan = StoredPlan.load(last["download"], handlers.studio.pipeline.model)
    assert plan.measured["saved_share"] >= 0.3
    assert last["plan"].count('reused" style=') == len(plan.config.reused)
    assert TUNED in last["quality"]
    assert TUNED in last["base"]
    assert "of the work saved" in handlers.described(TUNED, TUNED)
    drawn = draw(handlers, quality=TUNED)[-1]
    assert "Done. 2 pictures, tuned." in drawn["status"]
    assert f"{100 * plan.measured['saved_share']:.0f} % of the transformer" in drawn["cards"]
    assert not handlers.studio.pipeline.model.cache_config.changes_anything


def test_finding_a_plan_can_be_cancelled(handlers):
    updates = handlers.tune("a\nb\nc", 1, 4.5, "target_saved", 0.3)
    for update in updates:
        if "measuring: 2 of" in update.get("status", ""):
            break
    updates.close()
    assert "Done." in draw(handlers)[-1]["status"]
    assert TUNED not in handlers.choices.plans


@pytest.mark.parametrize(
    ("prompts", "value", "words"),
    [
        ("a", 0.5, "at least two prompts"),
        ("a\nb", 0.99, "target_saved 0.99 cannot be reached; the most possible is 0."),
    ],
)
def test_a_plan_that_cannot_be_found_is_explained(handlers, prompts, value, words):
    last = [u for u in handlers.tune(prompts, 1, 4.5, "target_saved", value) if u][-1]
    assert 'role="alert"' in last["status"]
    assert words in last["status"]
