"""A user's mistake is one line and exit code 2, found before anything is generated."""

from __future__ import annotations

import json
import shutil

import pytest

from hart.cli.main import generate_main
from hart.modules.networks.caching.presets import CACHE_PRESETS


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num_samples", "0"],
        ["--seed", "soon"],
        ["--cfg_scale", "nan"],
        ["--top_p", "1.5"],
        ["--dtype", "int8"],
    ],
    ids=" ".join,
)
def test_a_bad_number_or_choice_is_named(cli, arguments):
    line = cli.refuse(*arguments)
    assert arguments[0].strip("-").removeprefix("num_") in line or "num_images" in line
    assert arguments[1] in line


def test_an_unknown_preset_lists_the_known_ones(cli):
    line = cli.refuse("--cache-preset", "fast")
    assert all(preset in line for preset in CACHE_PRESETS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cache-skip-stages", "63", "--cache-cache-stages", "36"], "square maps"),
        (["--cache-preset", "original", "--threshold", "nan"], "within [0, 1]"),
        (["--cache-interpolation-mode", "cubic"], "bicubic"),
    ],
)
def test_a_bad_cache_option_is_found_before_the_weights_are_read(cli, arguments, said):
    (cli.checkpoint / "llm" / "model.safetensors").unlink()
    assert said in cli.refuse(*arguments)


@pytest.mark.parametrize(("field", "value"), [("patch_nums", 5), ("depth", "six"), ("depth", 0)])
def test_a_bad_field_of_the_models_config_is_named_with_its_file(cli, field, value):
    file = cli.checkpoint / "llm" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    line = cli.refuse()
    assert f"{file}: {field} must be" in line
    assert repr(value) in line


def test_stages_that_the_model_does_not_have_are_a_warning(cli):
    assert cli("--cache-skip-stages", "64", "169", "--cache-cache-stages", "36") == 0
    assert "warning: cache stages 169 are not stages of this model" in cli.stderr


@pytest.mark.parametrize("empty", ["", "   "])
def test_an_empty_prompt_is_refused_before_the_model_is_loaded(cli, empty):
    shutil.rmtree(cli.checkpoint)
    assert "prompts[1] is empty" in cli.refuse("--prompts", "a cat", empty, prompts=False)


def test_prompts_without_a_prompt_are_refused(cli):
    assert "--prompts" in cli.refuse("--prompts", prompts=False)


def test_prompts_and_a_file_of_prompts_exclude_each_other(cli, tmp_path):
    assert "not allowed with" in cli.refuse("--prompts_file", tmp_path / "prompts.txt")


def test_a_bad_file_of_prompts_is_named(cli, tmp_path):
    file = tmp_path / "prompts.txt"
    missing = cli.refuse("--prompts_file", file, prompts=False)
    file.write_text("# nothing\n\n")
    empty = cli.refuse("--prompts_file", file, prompts=False)
    assert str(file) in missing
    assert str(file) in empty
    assert "No such" in missing
    assert "no prompt in this file" in empty


def test_a_missing_system_prompt_file_is_named(cli, tmp_path):
    assert "absent.txt" in cli.refuse("--system_prompt_file", tmp_path / "absent.txt")


def test_an_output_folder_that_cannot_be_written_is_found_before_the_model_is_loaded(cli, tmp_path):
    (tmp_path / "file").touch()
    shutil.rmtree(cli.checkpoint)
    line = cli.refuse("--output_dir", tmp_path / "file" / "out")
    assert "output folder" in line
    assert "cannot be written" in line


@pytest.mark.parametrize("flag", ["--model_path", "--text_model_path", "--tokenizer_path"])
def test_a_missing_folder_is_named(cli, tmp_path, flag):
    assert f"{tmp_path / 'absent'}: no such folder" in cli.refuse(flag, tmp_path / "absent")


def test_weights_that_do_not_fit_the_configuration_are_refused(cli):
    file = cli.checkpoint / "llm" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "depth": 4}))
    assert "blocks.3." in cli.refuse()


def test_a_similarity_file_that_is_missing_or_damaged_is_refused(cli, tmp_path):
    file = tmp_path / "table.json"
    assert str(file) in cli.refuse("--cache-preset", "original", "--sim-path", file)
    file.write_text("[]")
    assert "similarity file" in cli.refuse("--cache-preset", "original", "--sim-path", file)


def test_an_abbreviated_or_unknown_flag_is_refused(cli):
    assert "--num_sam" in cli.refuse("--num_sam", "3")


def test_debug_shows_where_an_error_came_from(cli, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        cli("--debug", "--model_path", tmp_path / "absent")


def test_help_lists_every_documented_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        generate_main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    documented = (
        "--model_path --tokenizer_path --text_model_path --prompts --prompts_file --num_samples "
        "--batch_size --seed --cfg_scale --top_p --more_smooth --no-more_smooth "
        "--max_token_length --use_ema --no-use_ema --use_llm_system_prompt "
        "--no-use_llm_system_prompt --dtype --device --output_dir --save_images --no-save_images "
        "--quiet --cache-preset --cache-skip-stages --cache-cache-stages --cache-enable-attn "
        "--cache-disable-attn --cache-enable-mlp --cache-disable-mlp --cache-threshold "
        "--cache-adaptive-threshold --cache-interpolation-mode --use-cache --calibration "
        "--sim-path --threshold --system_prompt_file"
    )
    assert [flag for flag in documented.split() if flag not in text] == []


@pytest.fixture
def loop(tmp_path) -> str:
    """A link to a link to itself."""
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    return str(tmp_path / "one")


@pytest.mark.parametrize(
    "flag",
    ["--model_path", "--text_model_path", "--tokenizer_path", "--output_dir", "--prompts_file"],
)
def test_a_loop_of_links_is_one_line(cli, loop, flag):
    assert loop in cli.refuse(flag, loop, prompts=flag != "--prompts_file")


@pytest.mark.parametrize(
    "command",
    [
        ["merge-similarity", "{}", "other.json", "--output", "out.json"],
        ["convert-similarity", "{}", "out.json"],
        ["plot-similarity", "{}"],
        ["plot-statistics", "{}"],
        ["batch", "--prompts_file", "{}"],
    ],
    ids=lambda command: command[0],
)
def test_a_loop_of_links_is_one_line_for_every_command(hart, loop, command):
    code, said = hart(*(word.format(loop) for word in command))
    assert code == 2
    assert said.splitlines() == [f"error: [Errno 40] Too many levels of symbolic links: '{loop}'"]
