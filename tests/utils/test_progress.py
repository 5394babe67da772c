"""How far a run is can be seen on a terminal, in a notebook and in a log."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from hart.utils import progress
from hart.utils.progress import progress_bar


@pytest.fixture
def lines(monkeypatch):
    """What is written to stderr, which is no terminal; set once something is."""
    written = SimpleNamespace(text="", seen=threading.Event())

    def write(text):
        written.text += text
        if "\n" in text:
            written.seen.set()

    monkeypatch.setattr(
        sys, "stderr", SimpleNamespace(write=write, flush=lambda: None, isatty=lambda: False)
    )
    return written


def test_a_log_gets_a_line_every_so_often(lines, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    with progress_bar(8, "image") as bar:
        bar.set_description("batch")
        bar.update(2)
        assert lines.seen.wait(60)
    assert lines.text.startswith("batch: 2 of 8 images after 00:00, 00:00 left\n")


def test_a_short_run_writes_nothing_to_a_log(lines):
    with progress_bar(2, "stage") as bar:
        bar.update()
    with progress_bar(2, "stage", quiet=True) as bar:
        bar.update()
    assert (bar.disable, lines.text) == (True, "")


def test_a_notebook_has_a_bar_though_it_is_no_terminal(lines, monkeypatch):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with progress_bar(2, "stage", file=sys.stderr) as bar:
        bar.update(2)
    assert "2/2" in lines.text


def test_a_bar_can_be_forced_and_forbidden(lines):
    with progress_bar(2, "stage", disable=True) as bar:
        bar.update()
    assert lines.text == ""
    with progress_bar(2, "stage", disable=False, file=sys.stderr) as bar:
        bar.update(2)
    assert "2/2" in lines.text
