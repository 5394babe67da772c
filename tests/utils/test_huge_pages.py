"""Programs ask for large pages; whoever says otherwise is heard, and imports change nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VARIABLE = "THP_MEM_ALLOC_ENABLE"


def after(code: str, **variables: str) -> str:
    """The variable in a new process that ran ``code``."""
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | variables
    code = f"import os, sys\n{code}\nprint(os.environ.get({VARIABLE!r}))"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1]


HELP = """from hart.cli.main import main
try: main(['--help'])
except SystemExit: pass"""


def test_a_command_asks_for_them_unless_told_otherwise():
    assert after(HELP) == "1"
    assert after(HELP, **{VARIABLE: "0"}) == "0"


@pytest.mark.slow
def test_the_library_leaves_the_process_alone():
    assert after("from hart import HARTPipeline, HARTForT2IEnhanced") == "None"
