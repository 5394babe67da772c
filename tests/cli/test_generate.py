"""``hart generate`` end to end: files, report, summary."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import hart
import hart.demo
from hart.cli.main import main
from hart.cli.prompts import DEMO_PROMPTS
from hart.demo.scene import ATTRIBUTES
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.pipeline import HARTPipeline
from hart.utils import default_prompts
from tests.cli.conftest import PROMPTS
from tests.golden_data import write_model
from tests.pipeline.checkpoint_folder import DEPTH, PATCH_NUMS, STAGES
from tests.product import PRESETS, product

ROOT = Path(__file__).parents[2]


def test_images_are_saved_with_what_it_takes_to_draw_them_again(cli):
    assert cli("--seed", "5", "--cache-preset", "attn-only") == 0
    assert cli.pictures == ["000000.png", "000001.png"]
    with Image.open(cli.output / "000001.png") as image:
        text = dict(image.text)
        saved = np.asarray(image)
    assert (text["prompt"], text["seed"], text["cfg_scale"]) == (PROMPTS[1], "6", "4.5")
    config = preset_config("attn-only", PATCH_NUMS)
    assert json.loads(text["cache_config"]) == config.to_dict()
    pipeline = HARTPipeline.from_pretrained(cli.checkpoint, device="cpu", cache=config)
    again = pipeline(text["prompt"], seed=int(text["seed"]), use_llm_system_prompt=False)
    assert abs(saved.astype(int) - np.asarray(again.images[0])).max() <= 1


def test_the_report_describes_settings_environment_and_every_image(cli):
    assert cli("--num_samples", "2", "--cfg", "3", "--top_p", "0.9", "--no-more_smooth") == 0
    report = cli.results
    settings = report["settings"]
    assert (settings["cfg_scale"], settings["top_p"], settings["more_smooth"]) == (3.0, 0.9, False)
    assert report["environment"]["torch"] == torch.__version__
    assert report["environment"]["transformers"] == transformers.__version__
    assert report["environment"]["hart"] == hart.__version__
    assert (report["environment"]["device"], report["environment"]["dtype"]) == ("cpu", "float32")
    assert report["complete"] is True
    images = report["images"]
    assert [image["prompt"] for image in images] == [p for p in PROMPTS for _ in range(2)]
    assert [image["seed"] for image in images] == [1, 2, 3, 4]
    assert [image["file"] for image in images] == cli.pictures
    for image in images:
        seconds = image["seconds"]
        assert tuple(seconds["stages"]) == tuple(map(str, STAGES))
        parts = [seconds[part] for part in ("text", "transformer", "residual", "decode")]
        assert min(parts) > 0
        assert seconds["total"] == pytest.approx(sum(parts))
        assert seconds["transformer"] == pytest.approx(sum(seconds["stages"].values()))


def test_the_summary_counts_what_the_decisions_say(cli):
    everything = ("--cache-threshold", "0", "--cache-compute-mlp-layers")
    assert cli("--cache-preset", "original", *everything) == 0
    plan_reuse = 2 * 2 * DEPTH  # two stages, both sites
    modules = 2 * DEPTH * len(STAGES)
    summary = cli.results["summary"]
    assert (summary["modules_reused"], summary["modules"]) == (plan_reuse, modules)
    assert 0.5 < summary["multiply_adds_saved"] < 1
    assert summary["reasons_for_no_reuse"] == []
    for image in cli.results["images"]:
        assert image["modules"]["64"]["mlp"] == {
            "computed": 0,
            "reused": DEPTH,
            "stored": 0,
            "not_eligible": 0,
        }
    assert f"{plan_reuse} of {modules} modules reused" in cli.stdout
    share = f"{100 * summary['multiply_adds_saved']:.0f} %"
    assert f"caching: {share} of the transformer's work saved: {share} reuse; " in cli.stdout
    assert "s per image" in cli.stdout
    assert f"residual {summary['seconds_per_image']['residual']:.2f}" in cli.stdout


def test_a_preset_that_reuses_nothing_says_why(cli):
    assert cli("--cache-preset", "original", "--cache-threshold", "1") == 0
    summary = cli.results["summary"]
    assert (summary["modules_reused"], summary["multiply_adds_saved"]) == (0, 0.0)
    (first, *_) = summary["reasons_for_no_reuse"]
    assert "at or below the threshold" in first
    assert f"nothing was reused: {first}" in cli.stdout


def test_what_pruning_and_guidance_save_is_not_called_nothing(cli):
    nothing_similar = ("--cache-preset", "hybrid", "--assume-similarity", "0.1")
    assert cli(*nothing_similar) == 0
    summary = cli.results["summary"]
    assert summary["modules_reused"] == 0 < summary["modules_pruned"]
    parts = summary["multiply_adds_saved_by"]
    assert sum(parts.values()) == pytest.approx(summary["multiply_adds_saved"])
    assert parts["reuse"] == 0 < min(parts["guidance"], parts["pruning"])
    shares = {name: f"{100 * parts[name]:.2g} %" for name in ("guidance", "pruning")}
    words = f"{shares['guidance']} guidance ended, {shares['pruning']} tokens left out; 0 of"
    assert words in cli.stdout
    assert f"reuse saved nothing: {summary['reasons_for_no_reuse'][0]}" in cli.stdout
    assert "nothing was reused" not in cli.stdout


def test_the_summary_is_the_same_in_any_batching(cli):
    found = []
    for size in ("1", "4"):
        arguments = ("--cache-preset", "hybrid", "--assume-similarity", "0.9", "--num_samples", "2")
        assert cli(*arguments, "--batch_size", size) == 0
        summary, images = cli.results["summary"], cli.results["images"]
        del summary["seconds_per_image"]
        found.append((summary, [image["modules"] for image in images]))
        (line,) = (line for line in cli.stdout.splitlines() if line.startswith("caching:"))
        found[-1] += (line,)
    assert found[0] == found[1]
    assert found[0][0]["modules"] == 2 * DEPTH * len(STAGES)


@pytest.mark.parametrize("arguments", [[], ["--cache-preset", "original", "--no-use-cache"]])
def test_caching_that_is_off_is_called_off(cli, arguments):
    assert cli(*arguments) == 0
    assert "caching: off" in cli.stdout
    assert cli.results["similarity"]["origin"] == "none"
    assert cli.results["summary"]["modules"] == 2 * DEPTH * len(STAGES)  # both in one batch
    for image in cli.results["images"]:
        assert [image["modules"][str(n)]["attn"]["computed"] for n in STAGES] == [DEPTH] * 6


@product(2, preset=PRESETS)
def test_every_preset_runs_and_its_report_holds_its_configuration(cli, preset):
    assert cli("--cache-preset", preset) == 0
    expected = preset_config(preset, PATCH_NUMS)
    assert cli.results["settings"]["cache_config"] == expected.to_dict()
    assert len(cli.pictures) == len(PROMPTS)


def test_explicit_flags_override_single_fields_of_a_preset(cli):
    assert cli("--cache-preset", "aggressive", "--cache-disable-mlp") == 0
    config = cli.results["settings"]["cache_config"]
    assert config["enable_mlp_cache"] is False
    assert config["threshold"] == CACHE_PRESETS["aggressive"].base.threshold


def test_the_report_says_whether_the_system_prompt_is_harts(cli, tmp_path):
    file = tmp_path / "instruction.txt"
    file.write_text("be vivid")
    assert cli("--system_prompt_file", file, "--use_llm_system_prompt") == 0
    prompt = cli.results["system_prompt"]
    assert (prompt["used"], prompt["is_hart"], len(prompt["sha256"])) == (True, False, 64)
    assert cli() == 0
    assert cli.results["system_prompt"]["used"] is False


def test_without_save_images_only_the_report_is_written_and_quiet_prints_nothing(cli):
    assert cli("--no-save_images", "--quiet") == 0
    assert (cli.stdout, cli.stderr) == ("", "")
    assert [file.name for file in cli.output.iterdir()] == ["generation_results.json"]
    assert cli.results["images"][0]["file"] is None


def test_prompts_come_from_a_file_without_blank_lines_and_comments(cli, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeff# two animals\n\n  a red fox \n#a cat\ntwo boats\n", encoding="utf-8")
    assert cli("--prompts_file", file, prompts=False) == 0
    assert [image["prompt"] for image in cli.results["images"]] == list(PROMPTS)


def test_without_prompts_four_default_ones_follow_the_seed(cli):
    drawn = []
    for seed in ("1", "1", "2"):
        assert cli("--seed", seed, prompts=False) == 0
        drawn.append([image["prompt"] for image in cli.results["images"]])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 4
    assert set(drawn[0]) <= set(default_prompts)


def test_without_a_model_the_demo_draws_and_says_so_in_one_line(cli, monkeypatch):
    monkeypatch.setattr(hart.demo, "DEMO_CHECKPOINT", cli.checkpoint)
    assert cli(model=False, prompts=False) == 0
    assert [image["prompt"] for image in cli.results["images"]] == list(DEMO_PROMPTS)
    assert sum("demo checkpoint" in line for line in cli.stdout.splitlines()) == 1


def test_the_demo_says_which_prompt_it_knows_nothing_of_and_what_it_knows(cli, monkeypatch):
    monkeypatch.setattr(hart.demo, "DEMO_CHECKPOINT", cli.checkpoint)
    asked = ("--prompts", "a fox", "two boats", "a lighthouse")
    assert cli(*asked, model=False, prompts=False) == 0
    lines = cli.stdout.splitlines()
    number = lines.index("'two boats' and 1 more name nothing that the demo knows; it knows:")
    listed = list(takewhile(lambda line: line.startswith("  "), lines[number + 1 :]))
    assert max(map(len, listed)) <= 88
    assert " ".join(line.strip() for line in listed).split(", ") == sorted(ATTRIBUTES["concept"])


@pytest.mark.parametrize(("model", "prompts"), [(True, True), (False, False)])
def test_other_checkpoints_and_what_the_demo_knows_need_no_advice(cli, monkeypatch, model, prompts):
    monkeypatch.setattr(hart.demo, "DEMO_CHECKPOINT", cli.checkpoint)
    assert cli(model=model, prompts=prompts) == 0
    assert "knows" not in cli.stdout


def test_the_autoencoder_in_harts_own_folder_layout_draws(cli, tmp_path):
    write_model("tokenizer", tmp_path / "published")
    assert cli("--tokenizer_path", tmp_path / "published", "--num_samples", "1") == 0
    with Image.open(cli.output / "000000.png") as image:
        assert image.size == (128, 128)


def test_a_prompt_longer_than_the_context_is_a_warning_in_one_line(cli):
    assert cli("--prompts", "many words " * 20, prompts=False) == 0
    (line,) = cli.stderr.splitlines()
    assert line.startswith("warning: the prompt")


def test_generate_is_a_command_of_hart(cli, capsys):
    argv = ["generate", "--model_path", str(cli.checkpoint), "--prompts", "a red fox", "--quiet"]
    assert main([*argv, "--output_dir", str(cli.output), "--no-use_llm_system_prompt"]) == 0
    assert cli.pictures == ["000000.png"]


@pytest.mark.slow
def test_the_script_at_the_top_runs(cli):
    command = [sys.executable, "enhanced_inference_cli.py", "--model_path", str(cli.checkpoint)]
    command += ["--prompts", "a red fox", "--output_dir", str(cli.output), "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert cli.pictures == ["000000.png"]
