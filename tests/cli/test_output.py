"""``hart generate`` overwrites nothing, and every picture is in the report of its run."""

from __future__ import annotations

import json
import shutil
import threading

import pytest
from PIL import Image

from hart.cli.naming import stem
from hart.cli.output import _next_numbers, _take_name, keep_earlier
from hart.pipeline import HARTPipeline
from tests.cli.conftest import PROMPTS

QUICK = ("--benchmark_runs", "1", "--benchmark_warmup", "0")


def content(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_later_run_numbers_its_pictures_on_and_keeps_the_earlier_report(cli):
    assert cli("--seed", "5") == 0
    before = content(cli.output)
    (cli.output / "000041.png").write_bytes(b"somebody's")
    assert cli("--seed", "7", "--num_samples", "2") == 0
    after = content(cli.output)
    assert after.pop("000041.png") == b"somebody's"
    earlier = after.pop("generation_results_1.json")
    assert earlier == before.pop("generation_results.json")
    assert [image["file"] for image in json.loads(earlier)["images"]] == sorted(before)
    assert {name: after[name] for name in before} == before
    drawn = {image["file"]: image for image in cli.results["images"]}
    assert list(drawn) == [f"0000{number}.png" for number in (42, 43, 44, 45)]
    assert {*after} == {*before, *drawn, "generation_results.json"}
    for file, image in drawn.items():
        with Image.open(cli.output / file) as picture:
            assert picture.text["seed"] == str(image["seed"])
            assert picture.text["prompt"] == image["prompt"]


@pytest.mark.slow
def test_measuring_overwrites_nothing_either(cli):
    for mode in (("--benchmark",), ("--compare_configs", "no-cache")):
        assert cli(*mode, *QUICK) == 0
        before = content(cli.output)
        assert cli(*mode, *QUICK) == 0
        after = content(cli.output)
        assert {*before.values()} <= {*after.values()}
        assert len(after) == len(before) + (3 if mode[0] == "--benchmark" else 4)


@pytest.mark.parametrize(
    "mode",
    [(), ("--no-save_images",), ("--benchmark", *QUICK), ("--compare_configs", "no-cache", *QUICK)],
)
def test_a_folder_that_vanishes_is_not_made_anew(cli, monkeypatch, mode):
    decode = HARTPipeline.decode

    def vanishing(pipeline, f_hat):
        shutil.rmtree(cli.output, ignore_errors=True)
        return decode(pipeline, f_hat)

    monkeypatch.setattr(HARTPipeline, "decode", vanishing)
    assert "there is no such folder (any more)" in cli.refuse(*mode)
    assert not cli.output.exists()


def test_the_numbers_of_a_runs_files_are_the_same(tmp_path):
    for name in ("a.json", "a.md", "a_4.md", "a_7.png", "other_9.json"):
        (tmp_path / name).write_text(name)
    keep_earlier(tmp_path, "a.json", "a.md")
    assert content(tmp_path) == {
        "a_5.json": b"a.json",
        "a_5.md": b"a.md",
        "a_4.md": b"a_4.md",
        "a_7.png": b"a_7.png",
        "other_9.json": b"other_9.json",
    }
    keep_earlier(tmp_path, "a.json")  # nothing to keep
    assert len(content(tmp_path)) == 5


def test_several_runs_at_once_take_different_numbers(tmp_path):
    folder, ready = tmp_path / "out", threading.Barrier(4)
    folder.mkdir()

    def save(own: int) -> None:
        ready.wait()
        for index in range(25):
            file = folder / f"{own}-{index}"
            file.write_text(file.name)
            _take_name(file, _next_numbers(folder))
            file.unlink()

    threads = [threading.Thread(target=save, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(content(folder)) == [f"{number:06d}.png" for number in range(100)]
    assert len({*content(folder).values()}) == 100


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    (tmp_path / "000009.png").write_text("earlier")
    (tmp_path / "new").write_text("new")
    assert _take_name(tmp_path / "new", _next_numbers(tmp_path)) == tmp_path / "000010.png"
    assert content(tmp_path) == {"000009.png": b"earlier", "000010.png": b"new"}


def test_help_says_what_becomes_of_earlier_files(capsys):
    from hart.cli.main import main

    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "nothing there is overwritten" in " ".join(capsys.readouterr().out.split())


def test_pictures_are_named_by_a_template(cli):
    named = ("--name_template", "{prompt}-{seed:03d}")
    how = ("--seed", 7, "--store_seperately", "--dtype", "fp32")
    assert cli(*named, *how, "--prompt", "a 9/10: fox?", *PROMPTS) == 0
    names = ["a_9_10_fox-007.png", "a_red_fox-008.png", "two_boats-009.png"]
    assert cli.pictures == names
    assert [image["file"] for image in cli.results["images"]] == names
    assert cli(*named, "--seed", 8, "--prompt", PROMPTS[0]) == 0
    assert set(cli.pictures) == {*names, "a_red_fox-008_1.png"}


def test_a_long_prompt_makes_a_name_that_fits():
    assert len(f"{stem('{prompt}-{seed}', 0, 'ü' * 400, 2**63)}.png".encode()) < 255


@pytest.mark.parametrize(
    "template", ["", "{sed}", "{seed", "a/{seed}", "{prompt:d}", ".{seed}", "{0}"]
)
def test_a_template_that_names_no_file_is_refused(cli, template):
    fields = "{index}, {prompt}, {seed}, such as {prompt}-{seed}"
    assert f"made of {fields}, got {template!r}" in cli.refuse("--name_template", template)
