from __future__ import annotations

import json
from pathlib import Path

import pytest

from hart.cli import loading
from hart.cli.main import main
from hart.pipeline import HARTPipeline
from tests.batch.batches import arguments, write_prompts
from tests.pipeline.checkpoint_folder import make_checkpoint


class Batch:
    """Runs ``hart batch`` in this process, on a checkpoint that is read from its files once."""

    def __init__(self, folder: Path, capsys) -> None:
        self.prompts = folder / "prompts.jsonl"
        self.output = folder / "out"
        self._capsys = capsys
        write_prompts(self.prompts)

    def __call__(self, *more: object) -> int:
        """The exit code; what was printed is in ``stdout`` and ``stderr`` afterwards."""
        code = main(arguments(self.prompts, self.output, *more))
        self.stdout, self.stderr = self._capsys.readouterr()
        return code

    def refuse(self, *more: object) -> str:
        """Expect a user's error, one line after those of bad lines; returns it."""
        assert self(*more) == 2
        line = self.stderr.splitlines()[-1]
        assert line.startswith("error: ")
        return line

    @property
    def report(self) -> dict:
        return json.loads((self.output / "batch_report.json").read_text())


@pytest.fixture(scope="package")
def loaded(tmp_path_factory) -> HARTPipeline:
    """A pipeline with similarity data."""
    folder = make_checkpoint(tmp_path_factory.mktemp("batch") / "checkpoint")
    pipeline = HARTPipeline.from_pretrained(folder, device="cpu", system_prompt="")
    pipeline.calibrate(["a cat"], quiet=True)
    pipeline.load_similarity(pipeline.model.save_similarity_data())
    return pipeline


@pytest.fixture
def batch(tmp_path, capsys, monkeypatch, loaded) -> Batch:
    def load(args, say):
        loaded.model.set_cache_config(args.cache_preset or "no-cache")
        loaded.model.calibration = bool(args.calibration)
        return loaded

    monkeypatch.setattr(loading, "read_pipeline", load)
    similarity, path = loaded.model.similarity, loaded.similarity_path
    yield Batch(tmp_path, capsys)
    loaded.model.similarity, loaded.similarity_path = similarity, path
    loaded.model.calibration = False
