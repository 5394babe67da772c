"""Ctrl-C keeps what is finished; a failure leaves a report of it too."""

from __future__ import annotations

import json

import pytest

from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.pipeline import HARTPipeline


@pytest.fixture
def stop_batch(monkeypatch):
    """Make one batch of a run, the second unless said otherwise, end with an exception."""

    def install(error: BaseException, number: int = 2) -> None:
        generate = HARTForT2IEnhanced.generate_feature_map
        calls = []

        def generate_or_stop(model, *args, **kwargs):
            calls.append(1)
            if len(calls) == number:
                raise error
            return generate(model, *args, **kwargs)

        monkeypatch.setattr(HARTForT2IEnhanced, "generate_feature_map", generate_or_stop)

    return install


def test_ctrl_c_keeps_the_finished_images_and_their_report(cli, stop_batch):
    stop_batch(KeyboardInterrupt())
    assert cli("--batch_size", "1") == 130
    assert cli.pictures == ["000000.png"]
    assert cli.results["complete"] is False
    assert [image["file"] for image in cli.results["images"]] == cli.pictures
    assert "interrupted after 1 images" in cli.stdout


def test_ctrl_c_before_the_first_image_still_leaves_a_report(cli, stop_batch):
    stop_batch(KeyboardInterrupt(), number=1)
    assert cli() == 130
    assert cli.results["images"] == []
    assert cli.results["summary"]["seconds_per_image"]["total"] is None


def test_ctrl_c_while_loading_is_exit_code_130(cli, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(HARTPipeline, "from_pretrained", interrupted)
    assert cli() == 130
    assert cli.stderr.splitlines() == ["interrupted"]


def test_a_failure_while_drawing_is_not_hidden_and_leaves_a_report(cli, stop_batch):
    stop_batch(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        cli("--batch_size", "1")
    assert cli.pictures == ["000000.png"]
    assert cli.results["complete"] is False


def test_an_interrupted_calibration_keeps_what_it_measured(cli, stop_batch):
    stop_batch(KeyboardInterrupt())
    assert cli("--batch_size", "1", "--calibration") == 130
    file = cli.checkpoint / "llm" / "cache_similarity.json"
    assert json.loads(file.read_text())["images"] == 1
    assert cli.results["similarity"]["images"] == 1
    assert "calibrated on 1 images; " in cli.stdout


def test_a_calibration_interrupted_before_its_first_image_leaves_no_table(cli, stop_batch):
    stop_batch(KeyboardInterrupt(), number=1)
    assert cli("--calibration") == 130
    assert not (cli.checkpoint / "llm" / "cache_similarity.json").exists()
    assert "no image was measured" in cli.stdout


def test_an_interrupted_automatic_calibration_is_no_table_for_later_runs(cli, stop_batch):
    stop_batch(KeyboardInterrupt())
    assert cli("--batch_size", "1", "--cache-preset", "original") == 130
    assert not (cli.checkpoint / "llm" / "cache_similarity.json").exists()
