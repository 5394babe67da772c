"""``--help``, ``--version`` and mistakes are answered before anything heavy is imported."""

from __future__ import annotations

import ast
import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import hart
from hart.cli.commands import hart_parser
from hart.cli.main import main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "numpy", "gradio", "fastapi", "matplotlib", "PIL", "safetensors")
LIMIT_S = 0.5  # of CPU time, the interpreter's own start included
COMMANDS = (
    "generate",
    "batch",
    "merge-similarity",
    "convert-similarity",
    "plot-similarity",
    "plot-statistics",
    "tune",
    "web",
    "serve",
)
LAZY_PACKAGES = ("hart", "hart.pipeline", "hart.tuning", "hart.utils")

# One fresh interpreter for all answers. Its processor time counts from its own start.
PROGRAM = """
import contextlib, io, json, runpy, sys, time

heavy, calls = json.load(sys.stdin)
answers = []
for program, *words in calls:
    run = runpy.run_module if program == "hart" else runpy.run_path
    sys.argv = [program, *words]
    before = time.process_time() if answers else 0.0
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(program, run_name="__main__")
        except SystemExit as end:
            code = end.code
    used = time.process_time() - before
    loaded = [name for name in heavy if name in sys.modules]
    answers.append([code, out.getvalue(), err.getvalue().splitlines(), loaded, used])
json.dump(answers, sys.stdout)
"""
SCRIPT = str(ROOT / "enhanced_inference_cli.py")
PROGRAMS = (("hart",), *(("hart", command) for command in COMMANDS), (SCRIPT,))
QUESTIONS = (("--help",), ("--seeed", "3"), ("--version",))


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, ...], list]:
    """What every program says to every question: exit code, output, errors, modules, seconds."""
    calls = [(*program, *question) for program in PROGRAMS for question in QUESTIONS]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([HEAVY, calls]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(calls, json.loads(done.stdout), strict=True))


def test_every_command_is_tried_here():
    (commands,) = (a for a in hart_parser()._actions if a.metavar == "command")
    assert set(commands.choices) == set(COMMANDS)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda words: Path(words[-1]).name)
def test_help_a_mistyped_flag_and_the_version_need_nothing_heavy(answers, program):
    found = [answers[(*program, *question)] for question in QUESTIONS]
    for *_, loaded, used in found:
        assert loaded == []
        assert used < LIMIT_S
    helped, mistyped, version = ((code, text, errors) for code, text, errors, *_ in found)
    usage = " ".join(("usage:", Path(program[0]).name, *program[1:]))
    assert helped[1].startswith(usage)
    assert helped[::2] == (0, [])
    assert mistyped[:2] == (2, "")
    (line,) = mistyped[2]
    assert line.startswith("error: ")
    assert version == (0, f"hart {hart.__version__}\n", [])


def test_no_command_prints_a_guide_of_commands_that_are_there(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    commands = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("  hart")]
    assert {words[0] for words in commands} == {"generate", "batch", "web"}
    for words in commands:
        hart_parser().parse_args(words)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["generat"], "did you mean 'generate'?"),
        (["generate", "--promts", "a"], "did you mean '--prompts'?"),
        (["generate", "--cfg_scal=3"], "did you mean '--cfg_scale'?"),
        (["batch", "--cache-preset", "hybird"], "did you mean 'hybrid'?"),
        (["web", "--dtype", "bfloat"], "did you mean 'bfloat16'?"),
        (["generate", "--qqqq"], "unrecognized arguments: --qqqq; hart generate --help lists"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest_one(words, meant, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert meant in line


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_type_checkers_see_the_names_that_are_imported_on_demand(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (seen,) = (node for node in tree.body if isinstance(node, ast.If))
    assert seen.test.id == "TYPE_CHECKING"
    declared = {
        alias.asname: getattr(importlib.import_module(node.module), alias.name)
        for node in seen.body
        for alias in node.names
    }
    assert {*declared} == {*module.__all__} - {"__version__"}
    for name, value in declared.items():
        assert getattr(module, name) is value
        assert name in dir(module)
