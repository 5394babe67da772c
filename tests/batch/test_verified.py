"""A resumed run believes no picture, no record and no setting that it has not compared."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from hart.pipeline import HARTPipeline
from tests.batch.batches import outcome, rows, write_prompts
from tests.product import PRESETS, product

SIX = tuple(json.dumps({"prompt": f"a fox {n}"}) for n in range(6))


@pytest.fixture
def drawn(monkeypatch) -> list[list[int]]:
    """Indices of the images of every batch that is drawn."""
    batches, draw = [], HARTPipeline.draw_together

    def noted(pipeline, requests, **options):
        batches.append([request.index for request in requests])
        return draw(pipeline, requests, **options)

    monkeypatch.setattr(HARTPipeline, "draw_together", noted)
    return batches


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


def lengthen(file):
    file.write_bytes(file.read_bytes() + b"\0")


def change_one_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def put_another(file):
    shutil.copyfile(file.with_name("000000.png"), file)


def put_a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def put_a_loop(file):
    file.unlink()
    file.symlink_to(file.name)


FAULTS = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut, ": cut,
    "another picture than was drawn": put_another,
    "another picture": lengthen,
    "another picture than": change_one_bit,
    "no regular file": put_a_pipe,
    "Too many levels of symbolic links": put_a_loop,
}


@product(2, fault=[*FAULTS])
def test_a_lost_picture_is_found_and_its_whole_batch_drawn(batch, drawn, fault):
    write_prompts(batch.prompts, SIX)
    assert batch("--batch_size", "4") == 0
    expected = outcome(batch.output)
    others = {f: f.stat().st_mtime_ns for f in batch.output.glob("*.png") if "02" not in f.name}
    drawn.clear()
    FAULTS[fault](batch.output / "000002.png")
    assert batch("--batch_size", "4") == 0
    assert drawn == [[0, 1, 2, 3]]
    assert outcome(batch.output) == expected
    assert all(file.stat().st_mtime_ns == before for file, before in others.items())
    assert "5 of 6 images are finished already" in batch.stdout
    assert f"1 are drawn again: 000002.png ({fault}" in batch.stdout
    assert (batch.report["drawn_now"], batch.report["came_out_otherwise"]) == (1, [])
    assert list(batch.report["lost"]) == ["000002.png"]
    drawn.clear()
    assert batch("--batch_size", "4") == 0
    assert drawn == []


def test_a_folder_in_a_pictures_place_is_named_before_anything_is_drawn(batch, drawn):
    assert batch() == 1
    drawn.clear()
    file = batch.output / "000000.png"
    file.unlink()
    file.mkdir()
    assert f"{file}: expected a regular file, found a folder" in batch.refuse()
    assert drawn == []


def test_size_and_digest_are_those_of_the_file(batch):
    batch()
    for row in rows(batch.output):
        file = batch.output / row["file"]
        assert row["bytes"] == file.stat().st_size
        assert row["sha256"] == outcome(batch.output)["images"][row["file"]]
    assert [row["batch"] for row in rows(batch.output)] == [[0, 3], [1, 4], [0, 3], [1, 4], [5]]


@product(1, preset=PRESETS)
def test_lost_pictures_come_out_as_before_with_every_preset(batch, preset):
    write_prompts(batch.prompts, SIX)
    options = ("--batch_size", "3", "--cache-preset", preset)
    assert batch(*options) == 0
    expected = outcome(batch.output)
    for name in ("000000.png", "000002.png", "000004.png"):
        (batch.output / name).unlink()
    assert batch(*options) == 0
    assert outcome(batch.output) == expected
    assert batch.report["came_out_otherwise"] == []


def test_batches_that_memory_made_smaller_are_drawn_again_as_they_were(batch, drawn, monkeypatch):
    write_prompts(batch.prompts, SIX)
    with pytest.MonkeyPatch.context() as patch:
        noted = HARTPipeline.draw_together

        def limited(pipeline, requests, **options):
            if len(requests) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return noted(pipeline, requests, **options)

        patch.setattr(HARTPipeline, "draw_together", limited)
        assert batch("--batch_size", "4") == 0
    expected = outcome(batch.output)
    assert [row["batch"] for row in rows(batch.output)][:3] == [[0, 1], [0, 1], [2, 3]]
    (batch.output / "000003.png").unlink()
    drawn.clear()
    assert batch("--batch_size", "4") == 0  # with memory enough for 4
    assert drawn == [[2, 3]]
    assert outcome(batch.output) == expected


def test_a_new_line_is_drawn_in_its_planned_batch_and_changes_no_picture(batch, drawn, tmp_path):
    write_prompts(batch.prompts, SIX[:5])
    assert batch("--batch_size", "3") == 0
    before = outcome(batch.output)["images"]
    write_prompts(batch.prompts, SIX)
    drawn.clear()
    assert batch("--batch_size", "3") == 0
    assert drawn == [[3, 4, 5]]
    after = outcome(batch.output)["images"]
    assert {name: after[name] for name in before} == before
    (batch.output / "000004.png").unlink()
    drawn.clear()
    assert batch("--batch_size", "3") == 0
    assert drawn == [[3, 4]]  # as it was
    assert outcome(batch.output)["images"] == after
    batch.output = tmp_path / "at once"
    assert batch("--batch_size", "3") == 0
    assert outcome(batch.output)["images"]["000005.png"] == after["000005.png"]


def test_an_image_whose_row_is_gone_is_drawn_in_its_planned_batch(batch, drawn):
    write_prompts(batch.prompts, SIX)
    assert batch("--batch_size", "4") == 0
    expected = outcome(batch.output)
    file = batch.output / "results.jsonl"
    lines = file.read_text().split("\n")
    file.write_text("\n".join(lines[:1] + lines[2:]))
    drawn.clear()
    assert batch("--batch_size", "4") == 0
    assert drawn == [[0, 1, 2, 3]]
    assert outcome(batch.output) == expected


def test_pictures_that_were_not_to_be_saved_are_drawn_when_they_are(batch):
    write_prompts(batch.prompts, SIX[:2])
    assert batch("--no-save_images") == 0
    assert {row["sha256"] for row in rows(batch.output)} == {None}
    assert batch("--no-save_images") == 0
    assert batch.report["drawn_now"] == 0
    assert batch() == 0
    assert "2 are drawn again: 000000.png (not saved by an earlier run)" in batch.stdout
    assert None not in {row["sha256"] for row in rows(batch.output)}


def test_a_picture_that_comes_out_otherwise_is_told(batch, monkeypatch):
    write_prompts(batch.prompts, SIX[:2])
    assert batch() == 0
    (batch.output / "000001.png").unlink()
    draw = HARTPipeline.draw_together

    def inverted(pipeline, requests, **options):
        results = draw(pipeline, requests, **options)
        for result in results:
            result.image.paste(0, (0, 0, 8, 8))
        return results

    monkeypatch.setattr(HARTPipeline, "draw_together", inverted)
    assert batch() == 0
    assert batch.report["came_out_otherwise"] == ["000001.png"]
    assert "1 lost images came out otherwise" in batch.stdout


def test_batches_that_rows_cannot_name_are_planned_anew(batch, drawn):
    write_prompts(batch.prompts, SIX)
    assert batch("--batch_size", "3") == 0
    expected = outcome(batch.output)["images"]
    file = batch.output / "results.jsonl"
    found = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    found[1]["batch"] = [1, 99]
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    (batch.output / "000001.png").unlink()
    drawn.clear()
    assert batch("--batch_size", "3") == 0
    assert drawn == [[0, 1, 2]]
    assert outcome(batch.output)["images"] == expected


def test_a_batch_is_drawn_whole_although_a_line_of_it_was_taken_out_of_the_file(batch, drawn):
    write_prompts(batch.prompts, SIX)
    assert batch("--batch_size", "3") == 0
    expected = outcome(batch.output)["images"]
    write_prompts(batch.prompts, SIX[:5])
    (batch.output / "000004.png").unlink()
    drawn.clear()
    assert batch("--batch_size", "3") == 0
    assert drawn == [[3, 4, 5]]
    assert outcome(batch.output)["images"] == expected


# --- settings ---------------------------------------------------------------------------------


def test_every_setting_that_differs_is_named_and_nothing_else(batch):
    batch()
    said = batch.refuse("--batch_size", "3", "--cfg_scale", "2", "--no-engine")
    changes = "batch_size was 2, now it is 3; cfg_scale was 4.5, now it is 2.0; engine was True, "
    assert f"other settings: {changes}now it is False; choose another --output_dir" in said
    said = batch.refuse("--cache-preset", "conservative")
    assert "skip_stages of cache_config was [], now it is [" in said
    assert "threshold of cache_config was" in said
    assert "{" not in said


def test_other_text_encoders_and_autoencoders_are_other_settings(batch, loaded):
    batch()
    for name, module in (
        ("text_model", loaded.text_model),
        ("autoencoder", loaded.model.vae_proxy[0]),
    ):
        parameter = next(module.parameters())
        value = parameter.detach().flatten()[0].item()
        with torch.no_grad():
            parameter.view(-1)[0] = value + 1
        assert f"other settings: {name} was '" in batch.refuse()
        with torch.no_grad():
            parameter.view(-1)[0] = value
    assert batch() == 1


def test_the_engine_is_chosen_as_the_flags_say(batch, loaded):
    batch("--no-engine")
    assert not loaded.use_engine
    assert batch.report["settings"]["engine"] is False
    batch.output = batch.output.with_name("engine")
    batch()
    assert loaded.use_engine


# --- a folder that vanishes -------------------------------------------------------------------


@product(2, after=[1, 2, 3], again=[False, True])  # again: somebody else makes one
def test_a_folder_that_vanishes_ends_the_run_and_is_not_made_anew(batch, monkeypatch, after, again):
    write_prompts(batch.prompts, SIX)
    draw, calls = HARTPipeline.draw_together, []

    def vanishing(pipeline, requests, **options):
        calls.append(1)
        if len(calls) == after:
            shutil.move(batch.output, batch.output.with_name("elsewhere"))
            if again:
                batch.output.mkdir()
        return draw(pipeline, requests, **options)

    monkeypatch.setattr(HARTPipeline, "draw_together", vanishing)
    said = batch.refuse()
    assert str(batch.output) in said
    assert ("was replaced by another one" if again else "has vanished") in said
    assert len(calls) == after
    assert not batch.output.exists() or not list(batch.output.iterdir())


def test_a_folder_that_vanishes_while_calibrating_is_not_made_anew(batch, monkeypatch, loaded):
    loaded.similarity_path = None
    calibrate = HARTPipeline.calibrate

    def vanishing(pipeline, *args, **options):
        shutil.rmtree(batch.output, ignore_errors=True)
        return calibrate(pipeline, *args, **options)

    monkeypatch.setattr(HARTPipeline, "calibrate", vanishing)
    assert "has vanished" in batch.refuse("--cache-preset", "original")
    assert not batch.output.exists()


def test_records_that_somebody_takes_away_are_missed(batch, monkeypatch):
    write_prompts(batch.prompts, SIX[:4])
    draw, calls = HARTPipeline.draw_together, []

    def tidying(pipeline, requests, **options):
        calls.append(1)
        if len(calls) == 2:
            for record in (batch.output / "records").glob("*x*.json"):
                record.unlink()
        return draw(pipeline, requests, **options)

    monkeypatch.setattr(HARTPipeline, "draw_together", tidying)
    assert "the records of 2 images have vanished" in batch.refuse()
    assert batch() == 0
    assert len(rows(batch.output)) == 4


# --- own files of another shape ---------------------------------------------------------------

ROW = {"index": 0, "line": 1, "prompt": "a", "seed": 1, "cache_preset": None}
ROW |= {"bytes": 3, "sha256": "0", "batch": [0]}
TABLE = {"attn": [[0.5]], "mlp": [[0.5]], "images": 1}


def make_pipe(file):
    os.mkfifo(file)


def make_loop(file):
    file.symlink_to(file.name)


def make_huge(file):
    with file.open("wb") as out:
        out.truncate(2**33)


KINDS = {"folder": lambda f: f.mkdir(), "pipe": make_pipe, "loop": make_loop, "huge": make_huge}
OWN_FILES = (
    "batch.json",
    "results.jsonl",
    "records",
    "records/start.json",
    "records/000000x2.json",
)


AS_GOOD = {("records", "folder"), ("batch_report.json", "huge"), (".lock", "pipe")}
AS_GOOD |= {(".lock", "huge")}  # a lock's content means nothing


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in (*OWN_FILES, "batch_report.json", ".lock")
        for kind in KINDS
        if (name, kind) not in AS_GOOD
    ],
)
def test_an_own_file_that_is_no_file_is_named(batch, name, kind):
    file = stage(batch, name)
    KINDS[kind](file)
    said = batch.refuse("--calibration", "--sim-path", batch.output.with_name("table.json"))
    assert str(file) in said
    assert said.count("\n") == 0
    assert not list(batch.output.glob("*.png"))


def stage(batch, name):
    """A batch's folder in which an interrupted calibration left everything but ``name``."""
    records = batch.output / "records"
    records.mkdir(parents=True)
    (records / "start.json").write_text('{"start": null}')
    file = batch.output / name
    if name == "records":
        shutil.rmtree(file)
    file.unlink(missing_ok=True)
    return file


def assert_damaged(batch, name: str, content: bytes) -> None:
    """A file of the batch with this content is named as damaged, and where."""
    file = stage(batch, name)
    file.write_bytes(content)
    said = batch.refuse("--calibration", "--sim-path", batch.output.with_name("table.json"))
    where = f"{file}, line 1" if name == "results.jsonl" else f"{file}"
    assert f"{where}: damaged" in said


def record(**changes):
    return {"rows": [{**ROW, **changes}], "extra": None}


@product(
    value=[None, 3, "x", [], [1], True, 1e300, "\0"],
    name=["batch.json", "results.jsonl", *OWN_FILES[3:]],
)
def test_an_own_file_with_json_of_another_type_is_named(batch, name, value):
    assert_damaged(batch, name, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("records/000000x1.json", record(**{field: [[]]})) for field in ROW if field != "index"),
        ("records/000000x1.json", record(index=-1)),
        ("records/000000x1.json", record(batch=[1])),
        ("records/000000x1.json", record(batch=[0, 1, 0])),
        ("records/000000x1.json", record(seed=-1)),
        ("records/000000x1.json", record(cache_preset="fast")),
        ("records/000000x1.json", record(prompt="\ud800")),
        ("results.jsonl", {**ROW, "seconds": "\ud800"}),
        ("results.jsonl", {**ROW, "seconds": [float("nan")]}),
        ("records/000000x1.json", record(seconds={"text": float("inf")})),
        ("records/000000x1.json", {"rows": [], "extra": None}),
        ("records/000000x1.json", {"rows": [ROW], "extra": []}),
        ("records/000000x1.json", {"rows": [ROW], "extra": {**TABLE, "images": 10**400}}),
        ("records/000000x1.json", {"rows": [ROW], "extra": {**TABLE, "attn": [[2.0]]}}),
        ("records/000000x1.json", {"rows": [ROW], "extra": {**TABLE, "mlp": [[0.1], []]}}),
        ("records/000000x1.json", {"rows": [ROW]}),
        ("records/000000x2.json", record()),
        ("records/000000x0.json", {"rows": [], "extra": None}),
        ("records/start.json", {"start": {}}),
        ("records/start.json", {"start": None, "more": 1}),
        ("results.jsonl", {name: value for name, value in ROW.items() if name != "sha256"}),
    ],
)
def test_an_own_file_with_other_fields_is_named(batch, name, value):
    assert_damaged(batch, name, json.dumps(value).encode())


@product(
    content=[b"", b"{", b"\xff", b"[" * 100_000, b"\0" * 100],
    name=["batch.json", *OWN_FILES[3:]],
)
def test_an_own_file_that_is_no_json_is_named(batch, name, content):
    assert_damaged(batch, name, content)
