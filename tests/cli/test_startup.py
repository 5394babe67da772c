"""``--help``, ``--version`` and mistakes are answered before anything heavy is imported."""

from __future__ import annotations

import ast
import importlib
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import hart
from hart.cli.commands import hart_parser
from hart.cli.main import generate_main, main

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

_RUN = """
import runpy, sys
try:
    runpy.run_{how}({what!r}, run_name="__main__")
finally:
    print("heavy:", sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)
"""


def answer(*arguments: str, program: str = "hart") -> tuple[int, str, list[str]]:
    """Exit code, what was printed, and its error lines; checks CPU time and modules."""
    how = "module" if program == "hart" else "path"
    code = _RUN.format(how=how, what=program, heavy=HEAVY)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    *errors, heavy = done.stderr.splitlines()
    assert heavy == "heavy: []"
    assert used < LIMIT_S
    return done.returncode, done.stdout, errors


def test_every_command_is_tried_here():
    (commands,) = (a for a in hart_parser()._actions if a.metavar == "command")
    assert set(commands.choices) == set(COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_a_mistyped_flag_and_the_version_need_nothing_heavy(command):
    words = [command] if command else []
    code, text, errors = answer(*words, "--help")
    assert (code, errors) == (0, [])
    assert text.startswith(f"usage: hart {command}".rstrip())
    code, text, errors = answer(*words, "--seeed", "3")
    assert (code, text, len(errors)) == (2, "", 1)
    assert errors[0].startswith("error: ")
    assert answer(*words, "--version") == (0, f"hart {hart.__version__}\n", [])


def test_the_script_at_the_top_is_as_quick():
    script = str(ROOT / "enhanced_inference_cli.py")
    assert answer("--help", program=script)[0] == 0
    assert answer("--benchmrk", program=script)[0] == 2
    assert answer("--version", program=script)[1] == f"hart {hart.__version__}\n"


def test_no_command_prints_a_guide_of_commands_that_are_there():
    code, text, errors = answer()
    assert (code, errors) == (0, [])
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


@pytest.mark.parametrize("run", [main, generate_main])
def test_the_version_is_the_packages(run, capsys):
    with pytest.raises(SystemExit) as left:
        run(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"hart {hart.__version__}\n"


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
