from __future__ import annotations

import json
from pathlib import Path

import pytest

from hart.cli.main import generate_main, main
from hart.pipeline.text import load_text_encoder
from tests.pipeline.checkpoint_folder import make_checkpoint

PROMPTS = ("a red fox", "two boats")


class CommandLine:
    """Runs the command in this process on a checkpoint of its own, without the system prompt."""

    def __init__(self, folder: Path, capsys) -> None:
        self.checkpoint = make_checkpoint(folder / "checkpoint")
        self.output = folder / "out"
        self._capsys = capsys

    def __call__(self, *arguments: str, model: bool = True, prompts: bool = True) -> int:
        """The exit code; what was printed is in ``stdout`` and ``stderr`` afterwards."""
        argv = ["--output_dir", str(self.output), "--device", "cpu", "--no-use_llm_system_prompt"]
        if model:
            argv += ["--model_path", str(self.checkpoint)]
        if prompts:
            argv += ["--prompts", *PROMPTS]
        code = generate_main([*argv, *map(str, arguments)])
        self.stdout, self.stderr = self._capsys.readouterr()
        return code

    def refuse(self, *arguments: str, **options) -> str:
        """Expect a user's error: one line, exit code 2, nothing generated. Returns the line."""
        assert self(*arguments, **options) == 2
        assert not list(self.checkpoint.parent.glob("**/*.png"))
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("error: ")
        return lines[0]

    @property
    def results(self) -> dict:
        return json.loads((self.output / "generation_results.json").read_text())

    @property
    def pictures(self) -> list[str]:
        return sorted(file.name for file in self.output.glob("*.png"))


_encoders: dict[tuple, tuple] = {}


@pytest.fixture(autouse=True)
def _same_text_encoder_for_same_files(monkeypatch):
    """The files of most tests' checkpoints are the same: their text encoder is loaded once."""

    def load(folders, *place):
        parts = (folders.text_model, folders.text_tokenizer)
        files = [file for part in parts for file in sorted(part.iterdir()) if file.is_file()]
        key = (*(file.read_bytes() for file in files), *place)
        if key not in _encoders:
            _encoders[key] = load_text_encoder(folders, *place)
        return _encoders[key]

    monkeypatch.setattr("hart.pipeline.pipeline.load_text_encoder", load)


@pytest.fixture
def cli(tmp_path, capsys) -> CommandLine:
    return CommandLine(tmp_path, capsys)


@pytest.fixture
def hart(tmp_path, capsys, monkeypatch):
    """Runs a command in an empty folder; its exit code, then what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: object) -> tuple[int, str]:
        code = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        return code, out + err

    return run
