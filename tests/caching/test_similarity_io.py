"""Similarity files: exact round trips, matching between schedules, careful writing."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from hart.modules.networks.caching.similarity_io import (
    SimilarityFileError,
    check_destination,
    load_similarity,
    read_similarity,
    save_similarity,
)

from .similarity_files import DEPTH, HART_1024, HART_SHORT, VAR_256, filled

# Round trips


def test_json_keeps_values_and_provenance(tmp_path):
    path = tmp_path / "new" / "table.json"
    tables = filled(HART_1024)
    save_similarity(
        path, tables, HART_1024, fingerprint="ab12", library_version="1.2", extra={"cfg": 4.5}
    )
    loaded = load_similarity(path, DEPTH, HART_1024)
    assert loaded.tables == tables
    assert (loaded.matched, loaded.total) == (13, 13)
    provenance = loaded.provenance
    assert provenance.patch_nums == HART_1024.patch_nums
    assert (provenance.images, provenance.fingerprint) == (3, "ab12")
    assert (provenance.library_version, provenance.extra) == ("1.2", {"cfg": 4.5})


def test_pickle_is_lists_of_15_that_any_reader_understands(tmp_path):
    path = tmp_path / "table.pkl"
    tables = filled(HART_1024)
    save_similarity(str(path), tables, HART_1024)
    assert pickle.loads(path.read_bytes()) == {"mlp": tables.mlp, "attn": tables.attn}
    assert load_similarity(str(path), DEPTH, HART_1024).tables.attn == tables.attn


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    path = tmp_path / "table.pkl"
    tables = filled(HART_1024)
    path.write_bytes(pickle.dumps({"mlp": tables.mlp, "attn": tables.attn}, protocol))
    loaded = load_similarity(path, DEPTH, HART_1024).tables
    assert (loaded.attn, loaded.mlp) == (tables.attn, tables.mlp)


def test_pt_has_one_ordinal_column_per_transition(tmp_path):
    path = tmp_path / "calibration_threshold.pt"
    tables = filled(HART_1024)
    save_similarity(path, tables, HART_1024)
    document = torch.load(path, weights_only=True)
    assert sorted(document) == ["attn", "mlp"]
    assert document["attn"].shape == (DEPTH, 13)
    # 25 -> 49 is the fifth transition, HART's column 5
    assert document["attn"][1, 4].item() == pytest.approx(tables.attn[1][5])
    assert document["mlp"][0, 12].item() == pytest.approx(tables.mlp[0][13])
    loaded = load_similarity(path, DEPTH, HART_1024).tables
    assert loaded.attn[1] == pytest.approx(tables.attn[1])
    assert loaded.mlp[0] == pytest.approx(tables.mlp[0])
    assert loaded.images == 0


def test_half_precision_pt_files_are_read(tmp_path):
    path = tmp_path / "table.pt"
    torch.save({site: torch.full((DEPTH, 9), 0.5).half() for site in ("mlp", "attn")}, path)
    assert load_similarity(path, DEPTH, VAR_256).tables.attn[0] == [0.5] * 9 + [0.0] * 6


# Between schedules


def test_transitions_are_matched_by_stage_size(tmp_path):
    path = tmp_path / "table.json"
    tables = filled(HART_1024)
    save_similarity(path, tables, HART_1024)
    loaded = load_similarity(path, DEPTH, HART_SHORT)
    assert (loaded.matched, loaded.total) == (6, 6)
    assert loaded.tables.attn[0][:7] == tables.attn[0][:7]
    assert loaded.tables.attn[0][7:] == [0.0] * 8

    save_similarity(path, filled(HART_SHORT), HART_SHORT)
    back = load_similarity(path, DEPTH, HART_1024)
    assert (back.matched, back.total) == (6, 13)
    assert back.tables.mlp[1][6] == pytest.approx(-0.071)
    assert back.tables.mlp[1][7:] == [0.0] * 8


def test_a_var_file_serves_the_stages_that_hart_shares(tmp_path):
    path = tmp_path / "calibration_threshold.pt"
    save_similarity(path, filled(VAR_256), VAR_256)
    loaded = load_similarity(path, DEPTH, HART_1024)
    assert loaded.provenance.patch_nums == VAR_256.patch_nums
    assert (loaded.matched, loaded.total) == (4, 13)  # up to 16 -> 25
    assert loaded.tables.attn[0][:4] == pytest.approx([0.01, 0.02, 0.03, 0.04])
    # 25 -> 36 is not 25 -> 49, and 169 -> 256 is not 144 -> 256
    assert loaded.tables.attn[0][4:] == [0.0] * 11


# Without a model


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "table.json"
    save_similarity(path, filled(HART_SHORT), HART_SHORT, fingerprint="ab")
    stored = read_similarity(path)
    assert stored.tables == filled(HART_SHORT)
    assert stored.schedule == HART_SHORT
    assert stored.provenance.fingerprint == "ab"


def test_the_stages_of_a_pt_are_those_of_var_or_have_to_be_said(tmp_path):
    save_similarity(tmp_path / "var.pt", filled(VAR_256), VAR_256)
    assert read_similarity(tmp_path / "var.pt").schedule == VAR_256
    save_similarity(tmp_path / "short.pt", filled(HART_SHORT), HART_SHORT)
    with pytest.raises(SimilarityFileError, match="found 6: name the stages"):
        read_similarity(tmp_path / "short.pt")
    short = read_similarity(tmp_path / "short.pt", HART_SHORT)
    assert short.tables.attn[1] == pytest.approx(filled(HART_SHORT).attn[1])


@pytest.mark.parametrize("name", ["table.json", "table.pt", "table.pkl"])
def test_tables_of_hart_load_into_var_by_stage_size(tmp_path, name):
    save_similarity(tmp_path / name, filled(HART_1024), HART_1024)
    loaded = load_similarity(tmp_path / name, DEPTH, VAR_256)
    assert (loaded.matched, loaded.total) == (4, 9)
    # 256 tokens exist in both, but come after 169 in VAR and after 144 in HART
    expected = [0.01, 0.02, 0.03, 0.04] + [0.0] * 11
    assert loaded.tables.attn[0] == pytest.approx(expected)


# Writing


def test_a_destination_is_checked_before_anything_is_measured(tmp_path):
    check_destination(tmp_path / "new" / "table.json", DEPTH, HART_1024)
    assert os.listdir(tmp_path / "new") == []
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").touch()
    for name, schedule, message in [
        ("table.txt", HART_1024, "found '.txt'"),
        ("table.pkl", VAR_256, "use .json"),
        ("folder.json", HART_1024, "regular file"),
    ]:
        with pytest.raises(SimilarityFileError, match=message):
            check_destination(tmp_path / name, DEPTH, schedule)
    with pytest.raises(OSError, match="file"):
        check_destination(tmp_path / "file" / "table.json", DEPTH, HART_1024)


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    save_similarity(path, filled(HART_1024), HART_1024)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_similarity(path, filled(HART_1024, images=9), HART_1024)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["table.json"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "other").write_text("")
    save_similarity(tmp_path / "table.json", filled(HART_1024), HART_1024)
    assert (tmp_path / "table.json").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("name", "schedule", "change", "message"),
    [
        ("table.npz", HART_1024, {}, r"\.json, \.pt, \.pkl; found '\.npz'"),
        ("table", HART_1024, {}, "found 'no suffix'"),
        ("table.pkl", VAR_256, {}, "use .json"),
        ("table.json", HART_1024, {"attn": [[float("nan")] * 15] * 2}, "found nan"),
        ("table.json", HART_1024, {"mlp": [[0.0] * 9] * 2}, "expected 15 columns, found 9"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, name, schedule, change, message):
    tables = filled(schedule)
    for field, value in change.items():
        setattr(tables, field, value)
    with pytest.raises(SimilarityFileError, match=message):
        save_similarity(tmp_path / name, tables, schedule)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("extra", [{"x": object()}, {"x": float("nan")}, {"x": "y" * 2**21}])
def test_extra_facts_must_fit_into_the_file(tmp_path, extra):
    with pytest.raises(SimilarityFileError):
        save_similarity(tmp_path / "table.json", filled(HART_1024), HART_1024, extra=extra)
