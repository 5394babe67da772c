"""``hart generate --compare_configs``: what it writes, and what happens when something fails."""

from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

import hart.demo.reader
from hart.demo.scene import ATTRIBUTES
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from tests.demo_stand_in import Guessing
from tests.pipeline.checkpoint_folder import PATCH_NUMS, STAGES

QUICK = ("--benchmark_runs", "1", "--benchmark_warmup", "0", "--assume-similarity", "0.85")
FILES = [
    "cache_comparison.json",
    "cache_comparison.md",
    "cache_comparison.png",
    "cache_comparison_plot.png",
]


def results(cli) -> dict:
    return json.loads((cli.output / FILES[0]).read_text())


def configurations(cli) -> dict:
    return results(cli)["configurations"]


def written(cli) -> list[str]:
    return sorted(file.name for file in cli.output.iterdir())


@pytest.fixture
def break_generation(monkeypatch):
    """Make generations under one preset end with an exception, from the given one on."""

    def install(preset: str, error: BaseException, number: int = 1) -> None:
        generate = HARTForT2IEnhanced.generate_feature_map
        config = preset_config(preset, PATCH_NUMS)
        calls = []

        def generate_or_stop(model, *args, **kwargs):
            if model.cache_config == config:
                calls.append(1)
                if len(calls) >= number:
                    raise error
            return generate(model, *args, **kwargs)

        monkeypatch.setattr(HARTForT2IEnhanced, "generate_feature_map", generate_or_stop)

    return install


@pytest.mark.slow
def test_all_presets_are_compared_in_four_files(cli):
    assert cli("--compare_configs", *QUICK) == 0
    assert written(cli) == FILES
    report = results(cli)
    assert report["complete"] is True
    assert set(report["configurations"]) == set(CACHE_PRESETS)
    for name, entry in report["configurations"].items():
        assert entry["status"] == "ok"
        assert entry["cache_config"] == preset_config(name, PATCH_NUMS).to_dict()
        speed = entry["speedup"]
        for part in ("image", "transformer"):
            assert 0 < speed[part]["p5"] <= speed[part]["median"] <= speed[part]["p95"]
    reference = report["configurations"]["no-cache"]
    assert reference["speedup"]["image"] == {"median": 1, "p5": 1, "p95": 1}
    assert (reference["multiply_adds_saved"], reference["memory"]["relative"]) == (0, 1)
    saved = {n: e["multiply_adds_saved"] for n, e in report["configurations"].items()}
    assert saved["aggressive"] >= saved["original"] > saved["conservative"] > saved["no-cache"]
    assert report["settings"]["assume_similarity"] == 0.85
    assert report["environment"]["device"] == "cpu"


def test_the_table_is_printed_and_written_and_the_pictures_can_be_opened(cli):
    assert cli("--compare_configs", "original", *QUICK) == 0
    table = (cli.output / FILES[1]).read_text()
    assert table in cli.stdout
    assert "| original |" in table
    assert cli.stderr == ""  # no progress bar without a terminal
    assert "attribute_accuracy" not in configurations(cli)["original"]["quality"]
    for name in FILES[2:]:
        with Image.open(cli.output / name) as image:
            image.load()
            assert min(image.size) > 300


def test_random_weights_are_compared_too(cli):
    arguments = ("--random-weights", "tiny", "--compare_configs", "original", *QUICK)
    assert cli(*arguments, "--quiet", model=False) == 0
    assert (cli.stdout, cli.stderr) == ("", "")
    assert configurations(cli)["original"]["quality"]["ssim"] < 1


def test_a_file_of_fields_is_a_configuration(cli, tmp_path):
    file = tmp_path / "late.json"
    file.write_text(json.dumps({"skip_stages": [64], "cache_stages": [36], "threshold": 0.5}))
    assert cli("--compare_configs", "original", file, *QUICK) == 0
    assert list(configurations(cli)) == ["no-cache", "original", "late"]
    assert configurations(cli)["late"]["cache_config"]["skip_stages"] == [64]


@pytest.mark.slow
def test_with_benchmark_every_part_has_its_seconds(cli):
    assert cli("--compare_configs", "original", "--benchmark", *QUICK) == 0
    for entry in configurations(cli).values():
        parts = entry["seconds_by_part"]
        assert tuple(parts["stages"]) == tuple(map(str, STAGES))
        assert parts["decode"]["median"] > 0
    assert cli("--compare_configs", "original", *QUICK) == 0
    assert "seconds_by_part" not in configurations(cli)["original"]


@pytest.mark.slow
def test_three_rounds_are_the_default(cli):
    assert cli("--compare_configs", "original", "--assume-similarity", "1") == 0
    assert {entry["rounds"] for entry in configurations(cli).values()} == {3}


def test_one_table_is_calibrated_for_all_configurations(cli):
    assert cli("--compare_configs", "aggressive", *QUICK[:4]) == 0
    assert results(cli)["similarity"]["origin"] == "calibration"
    assert (cli.checkpoint / "llm" / "cache_similarity.json").is_file()


def test_no_cache_alone_needs_no_table(cli):
    assert cli("--compare_configs", "no-cache", *QUICK[:4]) == 0
    assert results(cli)["similarity"]["origin"] == "none"


# --- held-out captions of the demo ----------------------------------------------------------


@pytest.mark.slow
def test_held_out_captions_are_read_back_from_the_images(cli, monkeypatch):
    monkeypatch.setattr(hart.demo.reader, "load_reader", lambda: Guessing(16))
    arguments = ("--demo_prompts", "2", "--num_samples", "2", *QUICK)
    assert cli("--compare_configs", "original", *arguments, prompts=False) == 0
    report = results(cli)
    assert (len(report["settings"]["prompts"]), report["images"]) == (2, 4)
    for entry in report["configurations"].values():
        shares = entry["quality"]["attributes"]
        assert set(shares) == set(ATTRIBUTES)
        accuracy = entry["quality"]["attribute_accuracy"]
        assert accuracy == pytest.approx(sum(shares.values()) / len(shares))
    assert "attributes right" in cli.stdout


def test_the_reader_refuses_pictures_of_another_size(cli, monkeypatch):
    monkeypatch.setattr(hart.demo.reader, "load_reader", lambda: Guessing(288))
    line = cli.refuse("--compare_configs", "--demo_prompts", "2", *QUICK, prompts=False)
    assert "pictures of 288 pixels, this model draws 16" in line


def test_held_out_captions_can_be_drawn_without_comparing(cli):
    assert cli("--demo_prompts", "3", prompts=False) == 0
    assert len(cli.pictures) == 3


# --- failures -------------------------------------------------------------------------------


def test_a_configuration_that_fails_is_reported_and_the_others_go_on(cli, break_generation):
    break_generation("aggressive", RuntimeError("out of\nmemory"))
    assert cli("--compare_configs", "aggressive", "original", *QUICK) == 1
    entries = configurations(cli)
    assert entries["aggressive"] == {
        "status": "failed",
        "reason": "RuntimeError: out of memory",
    }
    assert entries["original"]["status"] == "ok"
    assert "aggressive: failed (RuntimeError: out of memory)" in cli.stdout
    assert written(cli) == FILES


def test_a_failure_in_a_later_round_is_a_failure(cli, break_generation):
    break_generation("original", RuntimeError("late"), number=2)
    assert cli("--compare_configs", "original", *QUICK[2:], "--benchmark_runs", "3") == 1
    assert configurations(cli)["original"]["status"] == "failed"


def test_without_a_reference_nothing_can_be_compared(cli, break_generation):
    break_generation("no-cache", RuntimeError("broken"))
    assert cli("--compare_configs", "original", *QUICK) == 1
    assert {entry["status"] for entry in configurations(cli).values()} == {"failed"}
    assert "reference" in configurations(cli)["original"]["reason"]
    assert written(cli) == FILES[:2]


@pytest.mark.slow
def test_ctrl_c_keeps_the_finished_rounds(cli, break_generation):
    break_generation("original", KeyboardInterrupt(), number=2)
    arguments = ("--compare_configs", "attn-only", "original", *QUICK[2:])
    assert cli(*arguments, "--benchmark_runs", "3") == 130
    assert results(cli)["complete"] is False
    # attn-only was first in the second round, but there was no reference to compare it with.
    assert {entry["rounds"] for entry in configurations(cli).values()} == {1}


def test_ctrl_c_in_the_first_round_leaves_the_file(cli, break_generation):
    break_generation("no-cache", KeyboardInterrupt())
    assert cli("--compare_configs", "original", *QUICK) == 130
    statuses = {entry["status"] for entry in configurations(cli).values()}
    assert statuses == {"not finished"}


def test_without_matplotlib_only_the_plot_is_missing(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli("--compare_configs", "original", *QUICK) == 0
    assert written(cli) == FILES[:3]
    assert sum("pip install" in line for line in cli.stdout.splitlines()) == 1


# --- what is refused ------------------------------------------------------------------------


def test_without_scikit_image_nothing_is_loaded(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    (cli.checkpoint / "llm" / "model.safetensors").unlink()
    assert 'pip install "hart[evaluation]"' in cli.refuse("--compare_configs", *QUICK)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fast"], "unknown configuration 'fast'; known are no-cache, conservative"),
        (["original", "absent.json"], "unknown configuration 'absent.json'"),
        (["--benchmark_runs", "0"], "expected an integer from 1, got '0'"),
        (["--calibration"], "--calibration exclude each other"),
        (["--cache-preset", "original"], "--cache-preset exclude each other: name presets"),
        (["--cache-threshold", "0.5"], "JSON files"),
        (["--cache-disable-mlp"], "exclude each other"),
        (["--no-use-cache"], "--use-cache exclude each other"),
        (["--random-weights", "tiny"], "--random-weights and --model_path exclude"),
        (["--clip_path", "absent"], "absent: no such folder of a CLIP model"),
        (["--demo_prompts", "2"], "not allowed with"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_refused(cli, arguments, said):
    (cli.checkpoint / "llm" / "model.safetensors").unlink()  # found before the weights are read
    assert said in cli.refuse("--compare_configs", *arguments)
