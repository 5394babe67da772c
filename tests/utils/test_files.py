"""The order in which a file that has to survive a power failure gets to the disk."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
import torch

from hart.batch.folder import BatchFolder, Record
from hart.cli.output import prepare_output_folder
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_io import save_similarity
from hart.modules.networks.caching.stages import StageSchedule
from hart.utils.files import file_sha256, read_limited, replacing, write_json
from hart.utils.images import save_png, to_pil

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows cannot sync a folder")


class Calls(list):
    """What is synced and renamed, in its order; a synced file with its size at that moment."""

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self._fsync, self._replace = os.fsync, os.replace
        self._names: dict[tuple[int, int], Path] = {}
        self._open = os.open
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", self.replace)

    def open(self, path, *args, **kwargs):
        descriptor = self._open(path, *args, **kwargs)
        status = os.fstat(descriptor)
        self._names[status.st_dev, status.st_ino] = Path(path)
        return descriptor

    def fsync(self, descriptor):
        status = os.fstat(descriptor)
        name = self._names[status.st_dev, status.st_ino]
        if stat.S_ISDIR(status.st_mode):
            self.append(("sync folder", name))
        else:
            self.append(("sync file", name, status.st_size))
        self._fsync(descriptor)

    def replace(self, source, target):
        self.append(("rename", Path(source), Path(target)))
        self._replace(source, target)


@pytest.fixture
def calls(monkeypatch) -> Calls:
    return Calls(monkeypatch)


def in_order(file: Path) -> list[tuple]:
    """What has to happen to ``file``, which is there now."""
    return [
        ("sync file", None, file.stat().st_size),
        ("rename", None, file),
        ("sync folder", file.parent),
    ]


def without_source(calls: list[tuple]) -> list[tuple]:
    """The same without the names of the files beside, which are checked here."""
    found = []
    for number, call in enumerate(calls):
        if call[0] == "sync file":
            assert calls[number + 1][:2] == ("rename", call[1])
            assert call[1].name.startswith(".")
            assert call[1].parent == calls[number + 1][2].parent
        found.append(call if call[0] == "sync folder" else (call[0], None, call[2]))
    return found


SCHEDULE = StageSchedule((1, 2, 3, 4, 6, 8))
TABLES = SimilarityTables.empty(2, SCHEDULE)


def save_table(file: Path) -> None:
    save_similarity(file, TABLES, SCHEDULE)


def save_picture(file: Path) -> None:
    save_png(to_pil(torch.rand(1, 3, 8, 8))[0], file, {"prompt": "a"}, durable=True)


def save_document(file: Path) -> None:
    write_json(file, {"a": 1}, durable=True)


def save_text(file: Path) -> None:
    with replacing(file, durable=True) as beside:
        beside.write_text("text")


WRITERS = [
    (save_table, "table.json"),
    (save_table, "table.pt"),
    (save_picture, "a.png"),
    (save_document, "a.json"),
    (save_text, "a.txt"),
]


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_content_before_name_and_name_before_returning(calls, tmp_path, write, name):
    for _ in range(2):  # also where it replaces a file
        calls.clear()
        write(tmp_path / name)
        assert without_source(calls) == in_order(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_batch_folder_brings_everything_to_the_disk(calls, tmp_path):
    folder = BatchFolder(tmp_path)
    records = tmp_path / "records"
    folder.require_settings({"seed": 1})
    assert without_source(calls) == in_order(tmp_path / "batch.json")

    calls.clear()
    folder.open_records()
    fresh = tmp_path / ".records.part"
    size = (records / "start.json").stat().st_size
    assert without_source(calls) == [
        ("sync file", None, size),
        ("rename", None, fresh / "start.json"),
        ("sync folder", fresh),
        ("rename", None, records),
        ("sync folder", tmp_path),
    ]

    calls.clear()
    row = {"index": 0, "line": 1, "prompt": "a", "seed": 1, "cache_preset": None}
    row |= {"bytes": None, "sha256": None, "batch": [0]}
    folder.add_record(Record([row]))
    assert without_source(calls) == in_order(records / "000000x1.json")

    calls.clear()
    assert folder.write_rows() == {0: row}
    assert without_source(calls) == in_order(tmp_path / "results.jsonl")

    calls.clear()
    folder.close_records()
    assert calls == [
        ("rename", records, tmp_path / ".records-done.part"),
        ("sync folder", tmp_path),
    ]
    assert not records.exists()


def test_new_folders_are_synced_from_the_top(calls, tmp_path):
    prepare_output_folder(tmp_path / "a" / "b")
    assert [call for call in calls if call[0] == "sync folder"] == [
        ("sync folder", tmp_path),
        ("sync folder", tmp_path / "a"),
    ]
    calls.clear()
    prepare_output_folder(tmp_path / "a" / "b")
    assert calls == []


@pytest.mark.parametrize(("write", "name"), WRITERS[2:])
def test_what_has_to_survive_does_not_make_a_folder_anew(tmp_path, write, name):
    with pytest.raises(FileNotFoundError, match=r"no such folder.*gone"):
        write(tmp_path / "gone" / name)
    assert not (tmp_path / "gone").exists()


def test_other_files_make_theirs(tmp_path):
    write_json(tmp_path / "new" / "folder" / "a.json", {})
    assert (tmp_path / "new" / "folder" / "a.json").is_file()


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(file, durable=True) as beside:
        beside.write_text(str(1 / 0))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_reading_is_bounded(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"1234")
    assert read_limited(file, 4) == b"1234"
    with pytest.raises(ValueError, match="at most 3 bytes, found 4"):
        read_limited(file, 3)
    for name, kind in (("pipe", "a pipe"), ("folder", "a folder"), ("null", "a device")):
        path = tmp_path / name
        {"pipe": os.mkfifo, "folder": os.mkdir}.get(name, lambda p: p.symlink_to("/dev/null"))(path)
        with pytest.raises(ValueError, match=f"expected a regular file, found {kind}"):
            read_limited(path, 3)


def test_a_digest_is_that_of_the_whole_content(tmp_path):
    content = b"abc" * 10**6  # more than is read at a time
    file = tmp_path / "a"
    file.write_bytes(content)
    assert file_sha256(file) == hashlib.sha256(content).hexdigest()
