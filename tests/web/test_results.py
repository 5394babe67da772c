"""Folders of requests: what may be fetched from them, and when they go."""

from __future__ import annotations

import os
import time

import pytest

from hart.web.results import Keep, Results, swept


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path, Keep(requests=3, hours=1))


def finished(results, age_s: float = 0.0):
    with results.request() as folder:
        (folder / "000-original.png").write_bytes(b"picture")
    then = time.time() - age_s
    os.utime(folder, (then, then))
    return folder


def names(results) -> set[str]:
    return {path.name for path in results.root.iterdir()}


def test_the_newest_requests_stay(results):
    folders = [finished(results, age_s) for age_s in (50, 40, 30, 20, 10)]
    results.sweep()
    assert names(results) == {folder.name for folder in folders[-3:]}
    assert not results.serves(str(folders[0] / "000-original.png"))
    assert results.serves(str(folders[-1] / "000-original.png"))


def test_what_is_too_old_goes_even_if_nobody_comes(results, monkeypatch):
    monkeypatch.setattr("hart.web.results.SWEEP_S", 0.01)
    with swept(results):
        old, new = finished(results, 3601), finished(results, 3000)
        deadline = time.monotonic() + 10
        while old.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert names(results) == {new.name}


def test_folders_of_an_earlier_run_go_too_but_nothing_else(results):
    earlier = finished(results, 3601)
    others = ["mine", "20260101-000000-notours", "20260101-000000-0123456789"]
    for name in others:
        (results.root / name).mkdir()
        os.utime(results.root / name, (0, 0))
    (results.root / "20260101-000000-01234567").write_text("a file")
    (results.root / "20260101-000000-76543210").symlink_to(earlier)
    Results(results.root, Keep(hours=1)).sweep()
    assert names(results) == {*others, "20260101-000000-01234567", "20260101-000000-76543210"}


def test_a_request_that_runs_is_never_removed(results):
    with results.request() as folder:
        os.utime(folder, (0, 0))
        for _ in range(5):
            finished(results)
        assert folder.exists()


def test_previews_and_empty_folders_do_not_outlive_the_request(results):
    with results.request() as folder:
        preview = folder / "preview-000-original-01.webp"
        preview.write_bytes(b"picture")
        assert results.serves(str(preview))
    assert not folder.exists()
    with results.request() as folder:
        (folder / "preview-000-original-02.webp").write_bytes(b"picture")
        (folder / "report.json").write_text("{}")
    assert [path.name for path in folder.iterdir()] == ["report.json"]


def test_another_runs_files_are_not_served(results):
    folder = finished(results)
    assert not Results(results.root, Keep()).serves(str(folder / "000-original.png"))
