"""The pipeline and the command line on a VAR checkpoint folder: draw, calibrate, compare."""

from __future__ import annotations

import json
import re

import pytest
import torch
from PIL import Image

from hart import VARPipeline
from hart.cli.main import generate_main, main
from hart.pipeline import HARTPipeline
from hart.utils.weights import CheckpointError
from tests.var.checkpoint import NUM_CLASSES, STAGES, make_var_checkpoint

QUICK = {"quiet": True, "seed": 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_var_checkpoint(tmp_path_factory.mktemp("var") / "checkpoint")


@pytest.fixture(scope="module")
def pipeline(checkpoint):
    return VARPipeline.from_pretrained(checkpoint, device="cpu")


@pytest.fixture
def maps(pipeline, monkeypatch):
    """What is decoded, in the place of pictures, whose decoder would take most of the time."""
    seen = []

    def decode(f_hat, _):
        seen.extend(f_hat.clone())
        return f_hat.new_zeros(len(f_hat), 3, 1, 1)

    monkeypatch.setattr(pipeline.model, "decode_feature_map", decode)
    return seen


def test_an_image_depends_on_its_class_and_seed_only(pipeline, maps):
    together = pipeline([3, 7, 3], batch_size=3, **QUICK)
    assert [result.condition for result in together.results] == [{"class": n} for n in (3, 7, 3)]
    assert [result.seed for result in together.results] == [3, 4, 5]
    for label, seed in ((3, 3), (7, 4), (3, 5)):
        pipeline(label, quiet=True, seed=seed)
    for alone, batched in zip(maps[3:], maps[:3], strict=True):
        torch.testing.assert_close(alone, batched, atol=1e-4, rtol=0)
    assert not maps[0].equal(maps[2])


def test_calibrating_fills_the_table(pipeline, maps):
    tables = pipeline.calibrate([1, 2], **QUICK)
    assert tables.images == 2
    assert all(value for row in tables.attn for value in row[: len(STAGES) - 1])


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        ([10], {}, r"classes\[0\] is 10; this model's classes are 0 to 9"),
        ([2, -1], {}, r"classes\[1\] is -1"),
        ([], {}, "classes is empty"),
        ([1], {"top_k": -1}, "top_k must be an integer from 0"),
    ],
)
def test_bad_classes_and_options_are_refused(pipeline, classes, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(classes, quiet=True, **options)


def test_prompts_and_text_options_are_refused(pipeline):
    with pytest.raises(TypeError, match=r"classes\[0\] must be an integer, got 'a dog'"):
        pipeline(["a dog"])
    with pytest.raises(TypeError, match="use_llm_system_prompt"):
        pipeline([1], use_llm_system_prompt=True)


def test_the_other_pipeline_says_what_it_is(checkpoint):
    with pytest.raises(CheckpointError, match="a VAR checkpoint, which draws classes: VARPipeline"):
        HARTPipeline.from_pretrained(checkpoint)


def test_a_folder_without_the_autoencoder(checkpoint, tmp_path):
    (tmp_path / "var_small.pth").symlink_to(checkpoint / "var_small.pth")
    with pytest.raises(CheckpointError, match="no autoencoder"):
        VARPipeline.from_pretrained(tmp_path)


# --- the command line -------------------------------------------------------------------------


@pytest.fixture
def command(checkpoint, tmp_path, capsys):
    def run(*arguments: object) -> tuple[int, str]:
        argv = ["--output_dir", tmp_path / "out", "--device", "cpu", "--quiet"]
        code = generate_main([str(a) for a in (*argv, "--model_path", checkpoint, *arguments)])
        out, err = capsys.readouterr()
        return code, out + err

    return run


def report(folder, name="generation_results.json") -> dict:
    return json.loads((folder / "out" / name).read_text())


def test_draw_calibrate_and_reuse(command, checkpoint, tmp_path):
    table = checkpoint / "var_small.cache_similarity.json"
    assert command("--classes", 3, 7, "--calibration") == (0, "")
    assert table.is_file()
    drawn = report(tmp_path)
    assert [image["class"] for image in drawn["images"]] == [3, 7]
    assert drawn["settings"]["model"].endswith("var_small.pth")
    assert drawn["settings"]["autoencoder"].endswith("vae_small.pth")
    assert (drawn["settings"]["cfg_scale"], drawn["settings"]["top_k"]) == (4.0, 900)
    assert drawn["system_prompt"] is None
    with Image.open(tmp_path / "out" / "000001.png") as picture:
        assert picture.size == (96, 96)
        assert picture.text["class"] == "7"

    reuse = ("--classes", 3, "--cache-preset", "aggressive", "--cache-threshold", 0.5)
    assert command(*reuse, "--top_k", 40, "--no-save_images") == (0, "")
    again = report(tmp_path)
    assert again["similarity"]["path"] == str(table)
    assert again["summary"]["modules_reused"] > 0
    assert again["settings"]["top_k"] == 40


def test_compare_configurations(command, tmp_path):
    names = ("--compare_configs", "original", "--benchmark_runs", 1, "--benchmark_warmup", 0)
    code, out = command("--classes", 5, "--assume-similarity", 0.9, *names)
    assert code == 0, out
    compared = report(tmp_path, "cache_comparison.json")
    assert compared["settings"]["classes"] == [5]
    assert compared["configurations"]["original"]["multiply_adds_saved"] > 0.3
    assert compared["configurations"]["no-cache"]["quality"]["ssim"] == 1.0
    assert (tmp_path / "out" / "cache_comparison.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "a dog"], "--prompts: .* is a VAR checkpoint, which draws --classes"),
        (["--demo_prompts", 2], "--demo_prompts: .* VAR checkpoint"),
        (["--classes", 1, NUM_CLASSES], r"classes\[1\] is 10; this model's classes are 0 to 9"),
        (["--classes", "cat"], "argument --classes: expected an integer from 0, got 'cat'"),
    ],
)
def test_wrong_conditions_are_refused(command, arguments, message, tmp_path):
    code, out = command(*arguments)
    assert code == 2
    assert len(out.splitlines()) == 1
    assert re.search(message, out), out
    assert not list(tmp_path.glob("**/*.png"))


@pytest.mark.parametrize("flags", [("--classes", "1"), ("--top_k", "5")])
def test_the_demo_has_no_classes(flags, capsys, tmp_path):
    assert generate_main(["--output_dir", str(tmp_path), *flags]) == 2
    assert f"error: {flags[0]}: only VAR checkpoints have classes" in capsys.readouterr().err


def test_a_batch_of_classes_is_drawn_and_goes_on(checkpoint, tmp_path, capsys):
    prompts, out = tmp_path / "classes.txt", tmp_path / "out"
    prompts.write_text("3\n7\n")
    run = ["batch", "--model_path", checkpoint, "--prompts_file", prompts, "--output_dir", out]
    run = [str(word) for word in (*run, "--device", "cpu", "--top_k", 40)]
    assert main(run) == 0
    prompts.write_text(f"3\n7\n{NUM_CLASSES}\n")
    assert main(run) == 2
    assert "classes[2] is 10; this model's classes are 0 to 9" in capsys.readouterr().err
    prompts.write_text("3\n7\n5\n")
    assert main(run) == 0
    assert "2 of 3 images are finished already" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["seed"]) for row in rows] == [("3", 1), ("7", 2), ("5", 3)]
    with Image.open(out / "000002.png") as picture:
        assert (picture.text["class"], picture.text["top_k"]) == ("5", "40")
