"""Where a run's similarity table comes from, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hart.cli import similarity
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.similarity import SimilarityTables
from tests.pipeline.checkpoint_folder import DEPTH

NAME = "cache_similarity.json"


def test_a_caching_run_without_a_table_calibrates_once_and_says_so(cli):
    assert cli("--cache-preset", "original") == 0
    file = cli.checkpoint / "llm" / NAME
    assert json.loads(file.read_text())["images"] == 2
    assert cli.results["similarity"] == {"origin": "calibration", "path": str(file), "images": 2}
    assert sum("calibrating on 2 prompts first" in line for line in cli.stdout.splitlines()) == 1
    first = cli.results["images"]

    assert cli("--cache-preset", "original") == 0
    assert cli.results["similarity"]["origin"] == "file"
    assert "calibrat" not in cli.stdout
    assert [i["modules"] for i in cli.results["images"]] == [i["modules"] for i in first]


@pytest.mark.parametrize("preset", ["no-cache", None])
def test_a_run_that_caches_nothing_does_not_calibrate(cli, preset):
    assert cli(*(["--cache-preset", preset] if preset else [])) == 0
    assert not (cli.checkpoint / "llm" / NAME).exists()


def test_calibration_images_are_limited_and_are_not_in_the_run(cli, monkeypatch):
    monkeypatch.setattr(similarity, "MAX_CALIBRATION_PROMPTS", 1)
    assert cli("--cache-preset", "original", "--num_samples", "2") == 0
    assert cli.results["similarity"]["images"] == 1
    assert len(cli.results["images"]) == 4
    assert cli.results["images"][0]["modules"]["64"]["attn"]["computed"] <= 3


def test_a_checkpoint_that_may_not_be_changed_gets_its_table_beside_the_images(cli, monkeypatch):
    def refuse_in_the_checkpoint(path, depth, schedule):
        if Path(path).is_relative_to(cli.checkpoint):
            raise PermissionError("read-only")

    monkeypatch.setattr(similarity, "check_destination", refuse_in_the_checkpoint)
    assert cli("--cache-preset", "original") == 0
    assert cli.results["similarity"]["path"] == str(cli.output / NAME)
    assert (cli.output / NAME).is_file()
    assert not (cli.checkpoint / "llm" / NAME).exists()


def test_sim_path_goes_before_the_checkpoints_table(cli, tmp_path):
    assert cli("--cache-preset", "original") == 0
    chosen = tmp_path / "chosen.json"
    content = json.loads((cli.checkpoint / "llm" / NAME).read_text())
    chosen.write_text(json.dumps({**content, "images": 77}))
    assert cli("--cache-preset", "original", "--sim-path", chosen) == 0
    expected = {"origin": "file", "path": str(chosen), "images": 77}
    assert cli.results["similarity"] == expected


def test_calibration_saves_the_table_and_the_images_of_caching_off(cli, tmp_path):
    assert cli() == 0
    expected = [(cli.output / name).read_bytes()[-2000:] for name in cli.pictures]
    table = tmp_path / "new" / "table.pt"
    assert cli("--calibration", "--sim-path", table) == 0
    assert table.is_file()
    drawn = [image["file"] for image in cli.results["images"]]
    assert [(cli.output / name).read_bytes()[-2000:] for name in drawn] == expected
    assert cli.results["similarity"] == {"origin": "calibration", "path": str(table), "images": 2}
    assert cli.results["settings"]["calibration"] is True
    assert "calibrated on 2 images" in cli.stdout


def test_a_damaged_table_in_the_checkpoint_is_replaced_with_a_warning(cli):
    file = cli.checkpoint / "llm" / NAME
    file.write_text("{")
    assert cli("--cache-preset", "original") == 0
    assert "warning: " in cli.stderr
    assert str(file) in cli.stderr
    assert json.loads(file.read_text())["images"] == 2


def test_a_table_of_another_checkpoint_is_used_with_one_warning(cli, tmp_path):
    file = write_table(cli, tmp_path, fingerprint="0" * 64)
    assert cli("--cache-preset", "original", "--sim-path", file) == 0
    warnings = [line for line in cli.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "other weights" in warnings[0]
    assert cli.results["summary"]["modules_reused"] > 0


def test_a_table_of_var_is_used_and_one_line_says_what_matches(cli, tmp_path):
    file = tmp_path / "calibration_threshold.pt"
    torch.save({site: torch.full((DEPTH, 9), 0.9) for site in ("mlp", "attn")}, file)
    assert cli("--cache-preset", "original", "--sim-path", file) == 0
    said = [line for line in (cli.stdout + cli.stderr).splitlines() if "transitions" in line]
    assert len(said) == 1
    assert "4 of this model's 5 transitions" in said[0]
    reused = cli.results["images"][0]["modules"]
    assert reused["64"]["mlp"]["reused"] == DEPTH - 1  # both models go from 36 to 64
    assert reused["36"]["mlp"]["reused"] == 0  # VAR comes from 25, this model from 16


def write_table(cli, folder: Path, **changes) -> Path:
    """A table that fits the checkpoint; ``changes`` replace keys of the document."""
    model = HARTForT2IEnhanced.from_pretrained(cli.checkpoint / "llm")
    table = [[0.9] * model.schedule.width for _ in range(model.depth)]
    model.similarity = SimilarityTables(table, table, images=3)
    file = model.save_similarity_data(folder / "table.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return file
