"""``hart generate --benchmark``: what it measures, writes, prints and refuses."""

from __future__ import annotations

import json

import pytest

import hart.demo
from hart.cli.main import main
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_io import save_similarity
from hart.modules.networks.caching.stages import StageSchedule
from tests.cli.conftest import PROMPTS
from tests.pipeline.checkpoint_folder import DEPTH, PATCH_NUMS, STAGES

RANDOM = ("--random-weights", "tiny", "--benchmark_runs", "1", "--benchmark_warmup", "0")
RANDOM_DEPTH = 3


def results(cli) -> dict:
    return json.loads((cli.output / "benchmark_results.json").read_text())


@pytest.fixture
def generations(monkeypatch):
    """Counts generations; ``stop_at`` makes that one end with Ctrl-C."""

    class Counter:
        count = 0
        stop_at = None

    generate = HARTForT2IEnhanced.generate_feature_map

    def counting(model, *args, **kwargs):
        Counter.count += 1
        if Counter.count == Counter.stop_at:
            raise KeyboardInterrupt
        return generate(model, *args, **kwargs)

    monkeypatch.setattr(HARTForT2IEnhanced, "generate_feature_map", counting)
    return Counter


def test_the_file_holds_every_part_settings_and_environment_and_the_table_every_part(cli):
    assert cli("--benchmark", "--benchmark_runs", "2", "--seed", "5") == 0
    report = results(cli)
    assert (report["complete"], report["runs"], report["images_per_run"]) == (True, 2, 2)
    seconds = report["seconds_per_image"]
    assert tuple(seconds["stages"]) == tuple(map(str, STAGES))
    parts = [seconds[name] for name in ("text", "transformer", "residual", "decode", "total")]
    for spread in (*parts, *seconds["stages"].values()):
        assert 0 < spread["p5"] <= spread["median"] <= spread["p95"]
    assert report["images_per_second"] == pytest.approx(1 / seconds["total"]["median"])
    assert report["text_encoding"] == "text encoder"
    settings = report["settings"]
    assert (settings["seed"], settings["warmup_runs"]) == (5, 1)
    assert settings["prompts"] == list(PROMPTS)
    assert report["environment"]["device"] == "cpu"
    assert report["memory"]["process_bytes"] > 20_000_000
    assert report["memory"]["device_bytes"] is None
    assert report["cache_statistics"]["images"] == 2
    starts = ["text encoding", *(f"stage {length} " for length in STAGES), "residual", "decode"]
    for start in starts:
        assert sum(line.startswith(start) for line in cli.stdout.splitlines()) == 1
    assert "images per second; 2 runs of 2 images" in cli.stdout
    assert cli.stderr == ""  # no progress bar without a terminal


def test_warm_up_runs_are_drawn_but_not_measured(cli, generations):
    assert cli("--benchmark", "--benchmark_runs", "3", "--benchmark_warmup", "2") == 0
    assert generations.count == 5
    assert results(cli)["runs"] == 3


def test_five_runs_after_one_warm_up_are_the_default(cli, generations):
    assert cli("--benchmark") == 0
    assert (generations.count, results(cli)["runs"]) == (6, 5)


@pytest.mark.slow
def test_the_images_of_a_run_are_saved_once(cli):
    assert cli("--benchmark", "--benchmark_runs", "2") == 0
    assert cli.pictures == ["000000.png", "000001.png"]
    assert cli("--benchmark", "--no-save_images", "--output_dir", cli.output / "none") == 0
    assert [file.name for file in (cli.output / "none").iterdir()] == ["benchmark_results.json"]


def test_a_checkpoint_without_a_table_is_calibrated_before_the_clock_runs(cli):
    assert cli("--benchmark", "--benchmark_runs", "1", "--cache-preset", "original") == 0
    report = results(cli)
    assert report["similarity"]["origin"] == "calibration"
    config = preset_config("original", PATCH_NUMS)
    assert report["settings"]["cache_config"] == config.to_dict()


def test_a_given_table_governs_reuse(cli, tmp_path):
    tables = SimilarityTables([[0.9] * 15] * DEPTH, [[0.1] * 15] * DEPTH, images=1)
    save_similarity(tmp_path / "table.json", tables, StageSchedule(PATCH_NUMS))
    arguments = ("--benchmark_runs", "1", "--cache-preset", "original")
    assert cli("--benchmark", *arguments, "--quiet", "--sim-path", tmp_path / "table.json") == 0
    assert (cli.stdout, cli.stderr) == ("", "")
    totals = results(cli)["cache_statistics"]["totals"]
    assert totals["attn"]["reused"] == 2 * DEPTH  # of one image
    assert totals["mlp"]["reused"] == 0


def test_the_demo_is_measured_without_a_model_path(cli, monkeypatch):
    monkeypatch.setattr(hart.demo, "DEMO_CHECKPOINT", cli.checkpoint)
    assert cli("--benchmark", "--benchmark_runs", "1", model=False) == 0
    assert results(cli)["settings"]["model"] == str(cli.checkpoint / "llm")


@pytest.mark.slow
def test_a_configuration_takes_turns_with_no_cache_and_is_named(cli, generations, monkeypatch):
    order = []
    start = HARTForT2IEnhanced._generation_scope

    def noting(model, *args):
        order.append(model.use_cache)
        return start(model, *args)

    monkeypatch.setattr(HARTForT2IEnhanced, "_generation_scope", noting)
    arguments = ("--benchmark_runs", "3", "--cache-preset", "original")
    assert cli("--benchmark", *arguments, "--assume-similarity", "1") == 0
    assert order == [True, False, False, True, True, False, False, True]  # the first two to warm up
    report = results(cli)
    assert (report["configuration"], report["runs"]) == ("original", 3)
    over = report["over_no_cache"]
    for spread in over.values():
        assert 0 < spread["p5"] <= spread["median"] <= spread["p95"]
    modules = report["cache_statistics"]["modules"]
    reused = 2 * (DEPTH + DEPTH - 1)
    assert modules == {"all": 2 * DEPTH * len(STAGES), "reused": reused, "pruned": 0}
    assert f"; {reused} of {modules['all']} modules reused per image" in cli.stdout
    assert f"{over['image']['median']:.2f} times as fast as no-cache" in cli.stdout


def test_without_caching_there_is_nothing_to_compare_with(cli):
    arguments = ("--benchmark_runs", "1", "--cache-preset", "original", "--no-use-cache")
    assert cli("--benchmark", *arguments) == 0
    report = results(cli)
    assert (report["configuration"], report["over_no_cache"]) == ("no-cache", None)
    assert "times as fast" not in cli.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--use-cache"], "original"),
        (["--cache-preset", "hybrid", "--cache-threshold", "0.79"], "hybrid with other options"),
        (["--cache-skip-stages", "64", "--cache-cache-stages", "36"], "own configuration"),
    ],
)
def test_other_configurations_are_named_too(cli, arguments, name):
    once = ("--benchmark_runs", "1", "--benchmark_warmup", "0", "--assume-similarity", "1")
    assert cli("--benchmark", *once, *arguments) == 0
    assert results(cli)["configuration"] == name


# --- random weights -------------------------------------------------------------------------


def test_random_weights_have_no_text_time_and_say_so(cli):
    assert cli("--benchmark", *RANDOM, model=False) == 0
    report = results(cli)
    assert report["seconds_per_image"]["text"] is None
    assert "no text encoder" in report["text_encoding"]
    seconds = report["seconds_per_image"]
    parts = seconds["transformer"], seconds["residual"], seconds["decode"]
    assert seconds["total"]["median"] == pytest.approx(sum(part["median"] for part in parts))
    assert report["settings"]["model"] == "random weights tiny, seed 1"


@pytest.mark.slow
@pytest.mark.parametrize(("similarity", "blocks"), [("0.71", RANDOM_DEPTH), ("0.7", 0), ("0", 0)])
def test_an_assumed_similarity_governs_the_reuse_of_random_weights(cli, similarity, blocks):
    arguments = (*RANDOM, "--cache-preset", "original", "--assume-similarity", similarity)
    assert cli("--benchmark", *arguments, model=False) == 0
    report = results(cli)
    totals = report["cache_statistics"]["totals"]
    assert totals["attn"]["reused"] == 2 * blocks
    assert totals["mlp"]["reused"] == 2 * max(0, blocks - 1)  # the first one always computes
    assert report["similarity"]["origin"] == "given"
    assert report["settings"]["assume_similarity"] == float(similarity)


def test_an_assumed_similarity_replaces_a_checkpoints_table(cli):
    schedule = StageSchedule(PATCH_NUMS)
    save_similarity(
        cli.checkpoint / "llm" / "cache_similarity.json",
        SimilarityTables([[0.1] * 15] * DEPTH, [[0.1] * 15] * DEPTH, images=1),
        schedule,
    )
    assert cli("--cache-preset", "original", "--assume-similarity", "1") == 0
    assert cli.results["summary"]["modules_reused"] == 2 * (DEPTH + DEPTH - 1)


def test_random_weights_follow_the_seed(cli):
    drawn = []
    for seed in ("1", "1", "2"):
        assert cli("--benchmark", *RANDOM, "--seed", seed, model=False) == 0
        (picture, *_) = results(cli)["files"]
        drawn.append((cli.output / picture).read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]


# --- Ctrl-C ---------------------------------------------------------------------------------


def test_ctrl_c_keeps_the_finished_runs(cli, generations):
    generations.stop_at = 3
    assert cli("--benchmark") == 130
    report = results(cli)
    assert (report["complete"], report["runs"]) == (False, 1)
    assert report["seconds_per_image"]["total"]["median"] > 0


def test_ctrl_c_while_warming_up_leaves_a_file_without_numbers(cli, generations):
    generations.stop_at = 1
    assert cli("--benchmark") == 130
    report = results(cli)
    assert (report["runs"], report["seconds_per_image"], report["memory"]) == (0, None, None)
    assert "no measured run was finished" in cli.stdout


def test_ctrl_c_between_two_turns_drops_the_half_round(cli, generations):
    generations.stop_at = 6  # of the second measured round
    assert cli("--benchmark", "--cache-preset", "original", "--assume-similarity", "1") == 130
    assert results(cli)["runs"] == 1
    assert "drawn in turns" in cli.stdout


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--benchmark_runs", "0"], "expected an integer from 1, got '0'"),
        (["--benchmark_runs", "many"], "expected an integer from 1"),
        (["--benchmark_warmup", "-1"], "expected an integer from 0"),
        (["--assume-similarity", "1.1"], "within [-1, 1], got '1.1'"),
        (["--assume-similarity", "-2"], "within [-1, 1]"),
        (["--assume-similarity", "nan"], "within [-1, 1]"),
        (["--assume-similarity", "0.9", "--sim-path", "x.json"], "--sim-path exclude"),
        (["--assume-similarity", "0.9", "--calibration"], "--calibration exclude"),
        (["--random-weights", "tiny"], "--random-weights and --model_path exclude"),
        (["--calibration"], "--benchmark and --calibration exclude"),
        (["--lpips_weights", "x.pth"], "--lpips_weights needs --compare_configs"),
        (["--clip_path", "x"], "--clip_path needs --compare_configs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_measured_is_refused(cli, arguments, said):
    (cli.checkpoint / "llm" / "model.safetensors").unlink()  # found before the weights are read
    assert said in cli.refuse("--benchmark", *arguments)


@pytest.mark.parametrize("flag", ["--text_model_path", "--tokenizer_path", "--system_prompt_file"])
def test_random_weights_take_no_part_of_a_checkpoint(cli, flag):
    line = cli.refuse("--benchmark", "--random-weights", "tiny", flag, "folder", model=False)
    assert f"--random-weights and {flag} exclude each other" in line


def test_an_unknown_shape_lists_the_known_ones(cli):
    line = cli.refuse("--benchmark", "--random-weights", "7b", model=False)
    assert "0.7b-1024" in line
    assert "tiny" in line


def test_random_weights_are_only_for_measuring(cli):
    assert "needs --benchmark or" in cli.refuse("--random-weights", "tiny", model=False)
    assert "needs --benchmark or" in cli.refuse("--benchmark_runs", "3")


def test_random_weights_of_vars_shape_are_measured_on_classes(cli):
    shape = ("--benchmark", "--random-weights", "var-tiny")
    assert "--prompts: var-tiny is a VAR checkpoint" in cli.refuse(*shape, model=False)
    once = ("--benchmark_runs", "1", "--benchmark_warmup", "0", "--classes", "3")
    reuse = ("--cache-preset", "original", "--assume-similarity", "0.9")
    assert main(["generate", "--output_dir", str(cli.output), *shape, *once, *reuse]) == 0
    assert results(cli)["settings"]["model"] == "random weights var-tiny, seed 1"
    assert results(cli)["cache_statistics"]["modules"]["reused"] > 0
