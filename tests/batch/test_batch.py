"""``hart batch`` on one process: bad lines, resuming, a full disk, too little memory."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import re

import pytest
import torch
from filelock import FileLock
from PIL import Image

from hart.cli.main import main
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.pipeline import HARTPipeline
from tests.batch.batches import GOOD, arguments, outcome, rows, write_prompts
from tests.product import product


def test_every_good_line_is_drawn_and_the_bad_one_told(batch):
    assert batch() == 1
    assert f"{batch.prompts}, line 3: prompt is empty" in batch.stderr
    assert [row["index"] for row in rows(batch.output)] == list(GOOD)
    assert [row["seed"] for row in rows(batch.output)] == [1, 77, 4, 5, 6]
    assert [row["cache_preset"] for row in rows(batch.output)][1] == "aggressive"
    assert rows(batch.output)[1]["modules"]["reused"] > 0
    assert batch.report["bad_lines"] == [{"line": 3, "reason": "prompt is empty"}]
    assert "5 images drawn" in batch.stdout
    assert "images per second" in batch.stdout


def test_the_demo_says_what_it_does_not_know(batch, capsys):
    words = arguments(batch.prompts, batch.output)
    at = words.index("--model_path")
    main([*words[:at], *words[at + 2 :]])
    told = "'two boats' and 1 more name nothing that the demo knows; it knows:"
    assert told in capsys.readouterr().out.splitlines()


def test_an_image_is_the_pipelines_own(batch, loaded):
    write_prompts(batch.prompts, ('{"prompt": "a fox", "seed": 3}',))
    assert batch() == 0
    alone = loaded("a fox", seed=3, use_llm_system_prompt=False).images[0]
    with Image.open(batch.output / "000000.png") as drawn:
        assert drawn.tobytes() == alone.tobytes()
        assert drawn.text["seed"] == "3"


def test_the_same_command_again_draws_nothing(batch):
    batch()
    before = {file: file.stat().st_mtime_ns for file in batch.output.glob("*.png")}
    assert batch() == 1
    assert "5 of 5 images are finished already" in batch.stdout
    assert batch.report["drawn_now"] == 0
    assert before == {file: file.stat().st_mtime_ns for file in batch.output.glob("*.png")}


def test_a_corrected_line_new_lines_and_deleted_images_are_drawn_and_nothing_else(batch):
    batch()
    expected = outcome(batch.output)
    lines = batch.prompts.read_text().splitlines()
    lines[2] = '{"prompt": "a boat"}'
    write_prompts(batch.prompts, (*lines, '{"prompt": "a hut"}'))
    (batch.output / "000004.png").unlink()
    assert batch() == 0
    assert batch.report["drawn_now"] == 3
    images = outcome(batch.output)["images"]
    assert set(images) == {f"{index:06d}.png" for index in range(7)}
    same = set(expected["images"]) - {"000004.png"}  # drawn alone, it may round differently
    assert all(images[name] == expected["images"][name] for name in same)


def test_other_settings_or_another_line_are_refused(batch):
    batch()
    assert "cfg_scale was 4.5, now it is 2.0" in batch.refuse("--cfg_scale", "2")
    assert "cache_config was" in batch.refuse("--cache-preset", "original")
    lines = batch.prompts.read_text().replace("a tree", "a bush")
    batch.prompts.write_text(lines)
    assert "line 4 of the prompts has changed" in batch.refuse()
    assert "prompt 'a tree', now it is 'a bush'" in batch.stderr


def test_images_of_another_command_are_not_written_over(batch):
    batch.output.mkdir()
    (batch.output / "000000.png").write_bytes(b"mine")
    assert "was not drawn by this command" in batch.refuse()
    assert (batch.output / "000000.png").read_bytes() == b"mine"


def test_two_runs_in_one_folder_are_refused(batch):
    batch.output.mkdir()
    with FileLock(batch.output / ".lock"):
        assert "another run is drawing" in batch.refuse()
    assert batch() == 1


def test_only_bad_lines_are_exit_code_1_without_loading_anything(batch, monkeypatch):
    monkeypatch.setattr("hart.cli.batch.load_pipeline", None)
    write_prompts(batch.prompts, ("{", '{"prompt": 1}'))
    assert batch() == 1
    assert len(batch.stderr.splitlines()) == 2


def test_a_damaged_file_of_rows_is_named_and_left_alone(batch):
    batch()
    file = batch.output / "results.jsonl"
    file.write_text(file.read_text() + "{\n")
    assert f"{file}, line 6: damaged" in batch.refuse()


# --- a full disk ------------------------------------------------------------------------------


class FullDisk:
    """Lets ``room`` writes, syncs and renames pass and refuses those that follow."""

    def __init__(self, monkeypatch, room: int) -> None:
        self.room = room
        opens = ((builtins, "open"), (io, "open"))  # the second one is pathlib's
        for owner, name in ((os, "fsync"), (os, "replace"), *opens):
            monkeypatch.setattr(owner, name, self._limited(getattr(owner, name)))

    def _limited(self, function):
        def call(*args, **kwargs):
            writes = function.__name__ != "open" or "w" in "".join(map(str, args[1:2]))
            self.room -= writes
            if writes and self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return call


@pytest.fixture
def _drawn_once(monkeypatch):
    """Remember what was drawn, where only the writing matters."""
    draw, known = HARTPipeline.draw_together, {}

    def remembered(pipeline, requests, **options):
        key = tuple(requests)
        if key not in known:
            known[key] = draw(pipeline, requests, **options)
        return known[key]

    monkeypatch.setattr(HARTPipeline, "draw_together", remembered)


@pytest.mark.slow
@pytest.mark.usefixtures("_drawn_once")
def test_a_disk_that_fills_at_any_moment_loses_nothing(batch, tmp_path):
    write_prompts(batch.prompts, ('{"prompt": "a fox"}', '{"prompt": "a cat"}'))
    batch.output = tmp_path / "expected"
    assert batch("--batch_size", "1") == 0
    expected = outcome(batch.output)
    moments = 0
    while True:
        batch.output = tmp_path / f"full-{moments}"
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, moments)
            code = batch("--batch_size", "1")
        if code == 0:
            break
        assert code == 2
        assert "No space left on device" in batch.stderr
        assert batch("--batch_size", "1") == 0
        assert outcome(batch.output) == expected
        moments += 1
    assert moments > 20


# --- too little memory ------------------------------------------------------------------------


def with_room_for(count: int, monkeypatch, error: BaseException) -> list[int]:
    """Let the pipeline fail with more than ``count`` images; the sizes that were tried."""
    tried, draw = [], HARTPipeline.draw_together

    def limited(pipeline, requests, **options):
        tried.append(len(requests))
        if len(requests) > count:
            raise error
        return draw(pipeline, requests, **options)

    monkeypatch.setattr(HARTPipeline, "draw_together", limited)
    return tried


ERRORS = (
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    MemoryError(),
)


@product(1, error=ERRORS)
def test_out_of_memory_halves_the_batch_and_goes_on(batch, monkeypatch, error):
    lines = [json.dumps({"prompt": f"a fox {n}"}) for n in range(6)]
    write_prompts(batch.prompts, lines)
    tried = with_room_for(2, monkeypatch, error)
    assert batch("--batch_size", "5") == 0
    assert tried == [5, 2, 2, 1, 1]  # and the smaller size stays
    assert "out of memory with 5 images at a time: going on with 2" in batch.stdout
    assert [row["index"] for row in rows(batch.output)] == list(range(6))
    assert batch.report["batch_size"] == 2


def test_too_little_memory_for_one_image_is_an_error_that_says_so(batch, monkeypatch):
    with_room_for(0, monkeypatch, ERRORS[0])
    assert "even with one image at a time" in batch.refuse()


def test_another_failure_is_not_taken_for_a_lack_of_memory(batch, monkeypatch):
    with_room_for(0, monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        batch()


# --- interruptions and progress ---------------------------------------------------------------


def test_ctrl_c_keeps_the_finished_batches_and_the_same_command_goes_on(batch, monkeypatch):
    assert batch() == 1
    expected = outcome(batch.output)
    batch.output = batch.output.with_name("interrupted")
    draw, calls = HARTPipeline.draw_together, []

    def once(pipeline, requests, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(pipeline, requests, **options)

    monkeypatch.setattr(HARTPipeline, "draw_together", once)
    assert batch() == 130
    assert [row["index"] for row in rows(batch.output)] == [0, 3]
    assert "the same command goes on" in batch.stdout
    assert batch() == 1
    assert outcome(batch.output) == expected


def test_the_bar_shows_images_per_second_and_time_left(batch, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    batch()
    assert re.search(r"5/5 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+image/s", batch.stderr), batch.stderr
    batch("--output_dir", batch.output.with_name("quiet"), "--quiet")
    assert "image/s" not in batch.stderr


# --- calibration ------------------------------------------------------------------------------


def test_an_interrupted_calibration_counts_every_image_once(batch, monkeypatch, tmp_path):
    write_prompts(batch.prompts, ('{"prompt": "a fox"}', '{"prompt": "a cat"}'))
    table = tmp_path / "table.json"
    calibrate = ("--calibration", "--sim-path", table, "--batch_size", "1")
    assert batch(*calibrate) == 0
    expected = table.read_text()
    assert json.loads(expected)["images"] == 2
    assert batch(*calibrate) == 0
    assert table.read_text() == expected
    table.unlink()
    batch.output = tmp_path / "interrupted"
    for room in (9, 15, 12, 20, 24):
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, room)
            batch(*calibrate)
    assert batch(*calibrate) == 0
    assert table.read_text() == expected


def test_a_calibration_goes_on_from_the_table_that_is_there(batch, tmp_path):
    write_prompts(batch.prompts, ('{"prompt": "a fox"}', '{"prompt": "a cat"}'))
    table = tmp_path / "table.json"
    assert batch("--calibration", "--sim-path", table) == 0
    batch.output = tmp_path / "more"
    assert batch("--calibration", "--sim-path", table, "--seed", "100") == 0
    assert json.loads(table.read_text())["images"] == 4
    assert "added to the 2 that were there" in batch.stdout


def test_a_calibration_whose_decoding_runs_out_of_memory_counts_every_image_once(
    batch, monkeypatch, tmp_path
):
    write_prompts(batch.prompts, ('{"prompt": "a fox"}', '{"prompt": "a cat"}'))
    decode, table = HARTForT2IEnhanced.decode_feature_map, tmp_path / "table.json"

    def limited(model, f_hat, *decoder):
        if len(f_hat) > 1:
            raise ERRORS[0]
        return decode(model, f_hat, *decoder)

    monkeypatch.setattr(HARTForT2IEnhanced, "decode_feature_map", limited)
    assert batch("--calibration", "--sim-path", table) == 0
    assert json.loads(table.read_text())["images"] == 2
