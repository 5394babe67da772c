"""Ctrl-C at any moment is exit code 130 and one line, and a closed pipe is no error.

Real processes get real signals, at moments that they show themselves: imports by ``-X importtime``,
the rest by what they print.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from hart.cli.interrupts import INTERRUPTED, READER_GONE, Interrupts, guarded
from tests.pipeline.checkpoint_folder import make_checkpoint

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("interrupted") / "checkpoint")


def start(*arguments: object, options: tuple[str, ...] = ()) -> subprocess.Popen:
    """A process of ``hart`` to which SIGINT means what it does in a terminal."""
    return subprocess.Popen(
        [sys.executable, *options, "-m", "hart", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def drawing(checkpoint: Path, folder: Path, *more: object) -> tuple[object, ...]:
    """A command that draws so many pictures that it does not end by itself."""
    return (
        *("generate", "--model_path", checkpoint, "--output_dir", folder, "--device", "cpu"),
        *(
            "--no-use_llm_system_prompt",
            "--prompts",
            "a red fox",
            "--num_samples",
            100000,
            "--batch_size",
            1,
            *more,
        ),
    )


def assert_nothing_is_torn(folder: Path) -> None:
    for file in folder.rglob("*"):
        assert not file.name.endswith(".part")
        if file.suffix == ".png":
            with Image.open(file) as picture:
                picture.load()


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["argparse", "hart.cli.arguments", "numpy", "torch.nn", "transformers.utils"]
)
def test_while_modules_are_imported(checkpoint, tmp_path, module):
    command = drawing(checkpoint, tmp_path / "out")
    with start(*command, options=("-X", "importtime")) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.rpartition("|")[2].strip() == module:
                process.send_signal(signal.SIGINT)
                break
        lines += process.stderr.readlines()
        assert process.wait(TIMEOUT_S) == INTERRUPTED
        assert [line for line in lines if not line.startswith("import time:")] == ["interrupted\n"]
        assert process.stdout.read() == ""


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.3])
def test_in_the_first_moments(checkpoint, tmp_path, delay_s):
    """Before the interpreter has started nobody can handle it; after that this library does."""
    with start(*drawing(checkpoint, tmp_path / "out")) as process:
        threading.Event().wait(delay_s)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode in (INTERRUPTED, -signal.SIGINT, 1)
        assert "hart/cli/interrupts" not in errors  # no traceback once it has started
        assert process.returncode != INTERRUPTED or errors == "interrupted\n"


@pytest.mark.slow
def test_while_it_loads(checkpoint, tmp_path):
    out = tmp_path / "out"
    with start(*drawing(checkpoint, out)) as process:
        wait_for(out.is_dir, process)  # it is made right before the checkpoint is loaded
        assert_it_ends(process, out)


@pytest.mark.slow
def test_while_it_calibrates(checkpoint, tmp_path):
    out = tmp_path / "out"
    with start(*drawing(checkpoint, out, "--cache-preset", "original")) as process:
        next(line for line in process.stdout if "calibrating on" in line)
        assert_it_ends(process, out)
    assert not list(checkpoint.rglob("cache_similarity*"))


@pytest.mark.slow
def test_while_it_draws(checkpoint, tmp_path):
    out = tmp_path / "out"
    with start(*drawing(checkpoint, out)) as process:
        wait_for(lambda: len(list(out.glob("*.png"))) >= 2, process)
        assert_it_ends(process, out)


def assert_it_ends(process: subprocess.Popen, folder: Path) -> None:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (INTERRUPTED, "interrupted\n")
    assert_nothing_is_torn(folder)


def wait_for(condition, process: subprocess.Popen) -> None:
    for _ in range(TIMEOUT_S * 50):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        threading.Event().wait(0.02)
    pytest.fail("it takes too long")


@pytest.mark.slow
def test_in_the_batch_command(checkpoint, tmp_path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a red fox\n" * 5000)
    command = ("batch", "--model_path", checkpoint, "--prompts_file", prompts, "--output_dir", out)
    quick = ("--device", "cpu", "--batch_size", 1, "--no-use_llm_system_prompt")
    with start(*command, *quick) as process:
        wait_for(lambda: len(list(out.glob("*.png"))) >= 2, process)
        assert_it_ends(process, out)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("generate", "--version")])
def test_a_reader_that_goes_away_is_no_error(arguments):
    with start(*arguments) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        # argparse itself takes no notice of it where the output is not buffered
        assert process.wait(TIMEOUT_S) in (READER_GONE, 0)


def test_a_reader_that_goes_away_while_it_works_is_no_error(capsys, monkeypatch):
    def command(argv, interrupts: Interrupts) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("hart.cli.interrupts._discard_output", lambda: None)
    assert guarded(command, []) == READER_GONE
    assert capsys.readouterr() == ("", "")


# --- in this process --------------------------------------------------------------------------


def test_an_exception_made_of_an_interrupt_is_an_interrupt(capsys):
    def command(argv, interrupts: Interrupts) -> int:
        interrupts.seen = True
        raise ImportError("initialisation failed")

    assert guarded(command, []) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_other_exceptions_pass():
    def command(argv, interrupts: Interrupts) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(command, [])


def test_a_command_with_arguments_leaves_the_processs_handler_alone():
    before = signal.getsignal(signal.SIGINT)

    def command(argv, interrupts: Interrupts) -> int:
        assert signal.getsignal(signal.SIGINT) is before
        return 0

    assert guarded(command, []) == 0
