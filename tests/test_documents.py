"""README, manual and documents do what they say: every command and block of Python runs.

On a tiny model in the demo's place but for ``make demo``, and shortened by parameters.
"""

from __future__ import annotations

import re
import sys
import warnings

import pytest

from hart.demo.scene import ATTRIBUTES
from tests.demo_stand_in import put_in_the_demos_place
from tests.documents import (
    DOCUMENTS,
    MANUAL,
    READ,
    README,
    ROOT,
    RUN,
    SHOWN,
    Reader,
    blocks,
    commands,
    reason,
    rows,
    section,
    understood,
)
from tests.var.checkpoint import make_var_checkpoint

SERVER = ROOT / "docs" / "serve.md"  # tests/server/test_documents.py follows it
FOLLOWED = [file for file in DOCUMENTS if file != SERVER and {b[1] for b in blocks(file)} & {*RUN}]
ONLY_READ = [
    ("docs/batches.md", "several machines"),
    ("docs/demo.md", "hours and a network"),
    ("docs/gpu.md", "a GPU"),
    ("docs/serve.md", "Docker and a GPU"),
    ("docs/serve.md", "Ray"),
]
"""All that is not run, and what it needs."""


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Reader:
    put_in_the_demos_place(tmp_path / "checkpoint", monkeypatch)
    make_var_checkpoint(tmp_path / "var", num_classes=1000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "original"])
    return Reader(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("document", FOLLOWED, ids=lambda file: file.stem)
def test_everything_in_it_runs(reader, document):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the demo lacks some of the stages that it names
        reader.follow(document)
    assert reader.ran


def test_blocks_are_run_or_say_why_not():
    found = []
    for document in DOCUMENTS:
        for before, language, content in blocks(document):
            assert language in (*RUN, READ, *SHOWN), (document, content)
            assert (language == READ) == (reason(before) is not None), (document, content)
            if language == READ:
                found.append((document.relative_to(ROOT).as_posix(), reason(before)))
                assert all(map(understood, commands(content))), (document, content)
    assert sorted(found) == ONLY_READ
    assert {README, MANUAL} < {*FOLLOWED}


def test_no_block_is_only_indented():
    text = {
        file.name: re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.M | re.S)
        for file in DOCUMENTS
    }
    assert [name for name, left in text.items() if re.search(r"^\n {4}", left, re.M)] == []


def test_the_readme_is_short_and_shows_pictures():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 120
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", text, re.M)
    assert len(pictures) == 2
    for picture in (ROOT / "docs" / "images").iterdir():
        screenshot = picture.name.startswith("page-")
        assert picture.stat().st_size <= (120_000 if screenshot else 60_000), picture


def test_the_demos_page_tells_its_accuracy_per_attribute():
    listed = [row[0] for row in rows(section(ROOT / "docs" / "demo.md", "How well it draws"))]
    assert set(listed[2:]) == set(ATTRIBUTES)


def test_paths_in_the_documents_exist():
    missing = []
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        links = [document.parent / name for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
        files = [ROOT / name for name in re.findall(r"`((?:hart|tests)/[\w/.]+)`", text)]
        missing += [f"{document.name}: {path}" for path in links + files if not path.exists()]
    assert missing == []
    assert {"README.md", "CONTRIBUTING.md", "architecture.md"} <= {file.name for file in DOCUMENTS}


def test_make_has_the_targets_that_the_documents_name():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"`make ([\w-]+)`", document.read_text("utf-8"))
    }
    assert {"test", "test-slow", "test-all"} <= named <= targets


def test_the_architecture_lists_classes_that_are_there():
    listed = rows((ROOT / "docs" / "architecture.md").read_text("utf-8"))[2:]
    names = [(file.strip("`"), re.findall(r"`(\w+)`", classes)) for file, classes in listed]
    for file, classes in names:
        text = (ROOT / file).read_text("utf-8")
        assert [name for name in classes if f"class {name}" not in text] == [], file
    number = sum(len(classes) for _, classes in names)
    assert f"all of its ways, {number}:" in (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_one_version_of_ruff_checks_the_code():
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M)[1]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {pinned}
