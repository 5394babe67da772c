"""How far a run is can be seen on a terminal, in a notebook and in a log."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from hart.utils import progress
from hart.utils.progress import progress_bar


@pytest.fixture
def written(capsys):
    """What stderr, which is no terminal, has been told since the last call."""
    return lambda: capsys.readouterr().err


def test_a_log_gets_a_line_every_so_often(written, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    text, until = "", time.monotonic() + 60
    with progress_bar(8, "image") as bar:
        bar.set_description("batch")
        bar.update(2)
        while "\n" not in text and time.monotonic() < until:
            time.sleep(0.01)
            text += written()
    assert text.startswith("batch: 2 of 8 images after 00:00, 00:00 left\n")


def test_a_short_run_writes_nothing_to_a_log(written):
    for quiet in (False, True):
        with progress_bar(2, "stage", quiet=quiet) as bar:
            bar.update()
    assert written() == ""


def test_a_notebook_has_a_bar_though_it_is_no_terminal(written, monkeypatch):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with progress_bar(2, "stage") as bar:
        bar.update(2)
    assert "2/2" in written()


def test_a_bar_can_be_forced_and_forbidden(written):
    with progress_bar(2, "stage", disable=True) as bar:
        bar.update()
    assert written() == ""
    with progress_bar(2, "stage", disable=False) as bar:
        bar.update(2)
    assert "2/2" in written()
