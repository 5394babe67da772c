"""``--calibration``: measured in one go or in several, and never over a file of another model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hart.cli.main import main
from hart.cli.similarity import SIMILARITY_FILE
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced

from .conftest import PROMPTS


def calibrate(cli, file: Path, *arguments: str, prompts: tuple[str, ...] = PROMPTS) -> str:
    """Calibrate and return the line that says what happened."""
    argv = ["--calibration", "--sim-path", file, "--no-save_images", *arguments]
    assert cli(*argv, "--prompts", *prompts, prompts=False) == 0, cli.stderr
    [line] = [line for line in cli.stdout.splitlines() if line.startswith("calibrated on")]
    return line


def document(file: Path) -> dict:
    return json.loads(file.read_text())


def assert_same_table(found: Path, expected: Path) -> None:
    assert document(found)["images"] == document(expected)["images"]
    for site in ("attn", "mlp"):
        pairs = zip(document(found)[site], document(expected)[site], strict=True)
        for row, expected_row in pairs:
            assert any(expected_row)
            assert row == pytest.approx(expected_row, abs=1e-6)


def test_parts_continued_or_merged_equal_the_whole(cli, tmp_path):
    whole, steps = tmp_path / "whole.json", tmp_path / "steps.json"
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    both = tmp_path / "both.json"
    assert calibrate(cli, whole).startswith("calibrated on 2 images; ")
    for part, seed, prompt in ((first, "1", PROMPTS[0]), (second, "2", PROMPTS[1])):
        calibrate(cli, part, "--seed", seed, prompts=(prompt,))
    steps.write_bytes(first.read_bytes())
    line = calibrate(cli, steps, "--seed", "2", prompts=PROMPTS[1:])
    assert line.startswith("calibrated on 1 images, added to the 1 that were there; ")
    assert cli.results["similarity"]["images"] == 2
    assert_same_table(steps, whole)
    assert main(["merge-similarity", str(first), str(second), "--output", str(both)]) == 0
    assert_same_table(both, whole)


def test_the_checkpoints_own_table_is_continued_too_and_deleting_it_restarts(cli):
    file = cli.checkpoint / "llm" / SIMILARITY_FILE
    assert cli("--calibration") == 0
    first = document(file)
    assert cli("--calibration") == 0
    assert document(file)["images"] == 4
    file.unlink()
    assert cli("--calibration") == 0
    assert document(file) == first


def test_the_table_is_saved_after_every_batch(cli, tmp_path, monkeypatch):
    file = tmp_path / "table.json"
    generate = HARTForT2IEnhanced.generate_feature_map
    before_batches = []

    def generate_and_look(model, *args, **kwargs):
        before_batches.append(document(file)["images"] if file.exists() else None)
        return generate(model, *args, **kwargs)

    monkeypatch.setattr(HARTForT2IEnhanced, "generate_feature_map", generate_and_look)
    calibrate(cli, file, "--batch_size", "1")
    assert before_batches == [None, 1]


FOREIGN = [
    ({"fingerprint": "0" * 64}, "it was measured with other weights"),
    ({"fingerprint": None}, "it does not name its weights"),
    ({"images": 0}, "it does not say how many images"),
    ({"patch_nums": [1, 2, 3, 4, 6, 7]}, "its stages are 1, 4, 9, 16, 36, 49, this model's"),
    ({"attn": None}, "attn has the type NoneType"),
    ({"depth": 2}, "depth says 2"),
]


def test_a_foreign_or_damaged_file_is_refused_and_left_alone(cli, tmp_path):
    file = tmp_path / "table.json"
    calibrate(cli, file, prompts=PROMPTS[:1])
    good = document(file)
    for changes, reason in FOREIGN:
        file.write_text(json.dumps({**good, **changes}))
        before = file.read_bytes()
        line = cli.refuse("--calibration", "--sim-path", file)
        assert str(file) in line
        assert reason in line
        assert file.read_bytes() == before


def test_a_format_without_provenance_is_not_continued(cli, tmp_path):
    file = tmp_path / "table.pt"
    calibrate(cli, file, prompts=PROMPTS[:1])
    before = file.read_bytes()
    assert "how many images" in cli.refuse("--calibration", "--sim-path", file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("table.txt", "found '.txt'"),
        ("table.pkl", "use .json"),  # this model's stages are not HART's
        ("file/table.json", "file"),
    ],
)
def test_a_file_that_could_not_be_written_is_refused_first(cli, tmp_path, name, reason):
    (tmp_path / "file").touch()
    assert reason in cli.refuse("--calibration", "--sim-path", tmp_path / name)
