"""Similarity files: exact round trips, matching between schedules, hostile input."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_io import (
    MAX_FILE_BYTES,
    SimilarityFileError,
    load_similarity,
    save_similarity,
)
from hart.modules.networks.caching.stages import StageSchedule

HART_1024 = StageSchedule((1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64))
HART_SHORT = StageSchedule((1, 2, 3, 4, 5, 7, 9))
VAR_256 = StageSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
DEPTH = 2


def filled(schedule: StageSchedule, images: int = 3) -> SimilarityTables:
    """Tables whose entry says where it is: column/100, layer/1000, negative for MLP."""
    tables = SimilarityTables.empty(DEPTH, schedule)
    for layer in range(DEPTH):
        for column in schedule.columns:
            tables.attn[layer][column] = (column + 1) / 100 + layer / 1000
            tables.mlp[layer][column] = -(column + 1) / 100 - layer / 1000
    tables.images = images
    return tables


def refused(path: Path, message: str, schedule: StageSchedule = HART_1024) -> None:
    with pytest.raises(SimilarityFileError, match=message) as caught:
        load_similarity(path, DEPTH, schedule)
    assert str(path) in str(caught.value)


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


def test_the_other_direction_lands_in_ordinal_columns(tmp_path):
    path = tmp_path / "table.json"
    save_similarity(path, filled(HART_1024), HART_1024)
    loaded = load_similarity(path, DEPTH, VAR_256)
    assert (loaded.matched, loaded.total) == (4, 9)
    assert loaded.tables.attn[0] == pytest.approx([0.01, 0.02, 0.03, 0.04] + [0.0] * 11)


# Writing


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


# Hostile and broken files


def json_with(tmp_path: Path, **changes) -> Path:
    path = tmp_path / "table.json"
    save_similarity(path, filled(HART_1024), HART_1024)
    document = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn": [[0.0] * 15] * 3}, "depth says 2, the attn table has 3 rows"),
        ({"attn": [[0.0] * 15] * 3, "mlp": [[0.0] * 15] * 3, "depth": 3}, "expected 2 rows.*3"),
        ({"mlp": [[0.0] * 13] * 2}, "mlp table, row 0: expected 15 columns, found 13"),
        ({"mlp": [[0.0] * 15, [float("nan")] * 15]}, "row 1, column 0: .*found nan"),
        ({"mlp": [[float("inf")] * 15] * 2}, "found inf"),
        ({"attn": [[1.01] * 15] * 2}, r"within \[-1, 1\], found 1.01"),
        ({"attn": [["0.5"] * 15] * 2}, "found '0.5'"),
        ({"attn": [[True] * 15] * 2}, "found True"),
        ({"attn": [[10**4000] * 15] * 2}, "huge integer"),
        ({"attn": {"0": 1}}, "attn has the type dict"),
        ({"surprise": 1}, "expected the keys .*'surprise'"),
        ({"mlp": None}, "expected the keys .*mlp"),
        ({"format": "other"}, "expected format 'hart-cache-similarity', found 'other'"),
        ({"format_version": 2}, "expected format_version 1, found 2"),
        ({"patch_nums": [1, 2, 2]}, "strictly increasing"),
        ({"patch_nums": [1, "2"]}, "must contain integers"),
        ({"patch_nums": list(range(1, 21))}, "expected 19 columns, found 15"),
        ({"images": -1}, "images must not be negative"),
        ({"images": True}, "images has the type bool"),
        ({"fingerprint": 5}, "fingerprint has the type int"),
    ],
)
def test_wrong_json_documents_are_refused(tmp_path, changes, message):
    refused(json_with(tmp_path, **changes), message)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"not json", b"[]", b"null", b"\xff\xfe\x00", b"[" * 200_000, b"1" * 10_000],
)
def test_files_that_are_not_json_documents_are_refused(tmp_path, data):
    path = tmp_path / "table.json"
    path.write_bytes(data)
    refused(path, "not a usable .json similarity file")


class Executing:
    """Unpickling this creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pkl", ".pt"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_file_is_not_executed(tmp_path, suffix, protocol):
    evidence = tmp_path / "executed"
    path = tmp_path / f"table{suffix}"
    document = {"mlp": [[0.0] * 15] * DEPTH, "attn": Executing(evidence)}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(document, protocol))
    else:
        torch.save(document, path, pickle_protocol=max(protocol, 2))
    refused(path, "expected (dictionaries|tensors)")
    assert not evidence.exists()


def nested_tuple() -> tuple:
    key: tuple = ()
    for _ in range(60):
        key = (key, key)  # hashing this takes 2**60 steps
    return key


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps({"mlp": [], "attn": []})[:-4], "not a usable"),
        (pickle.dumps([1, 2]), "expected a dictionary, found a list"),
        (pickle.dumps({"mlp": [], "attn": [], 7: 0}), "expected the keys attn, mlp; found"),
        (pickle.dumps({"mlp": [], "attn": []}), "expected 2 rows"),
        (pickle.dumps({"mlp": [[0.0] * 13] * 2, "attn": [[0.0] * 13] * 2}), "15 columns, found 13"),
        (pickle.dumps({"mlp": [[2] * 15] * 2, "attn": [[2] * 15] * 2}), "found 2"),
        (pickle.dumps({"mlp": [[1 << 9999] * 15] * 2, "attn": [[1 << 9999] * 15] * 2}), "huge"),
        (pickle.dumps(nested_tuple()), "found (TUPLE|EMPTY_TUPLE)"),
        (pickle.dumps({1, 2}), "found (EMPTY_SET|GLOBAL)"),
        (pickle.dumps(bytearray(4)), "BYTEARRAY8|GLOBAL"),
        (pickle.dumps(torch.zeros(1)), "found (GLOBAL|STACK_GLOBAL|BINBYTES)"),
        (b"\x80\x04]r\xff\xff\xff\x7f.", "memo index"),  # would allocate gigabytes
        (b"(lp99999999999\n.", "memo index"),
        (b"", "not a usable"),
        (b"garbage", "not a usable"),
        (b"\x80\x04}]s.", "not a usable"),
    ],
)
def test_wrong_pickles_are_refused(tmp_path, data, message):
    path = tmp_path / "table.pkl"
    path.write_bytes(data)
    refused(path, message)


def test_a_list_that_contains_itself_is_refused(tmp_path):
    row: list = []
    row.extend([row] * 15)
    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps({"mlp": [row, row], "attn": [row, row]}))
    refused(path, "row 0, column 0: .*found a list")


def test_a_pickle_cannot_serve_a_model_with_other_stages(tmp_path):
    path = tmp_path / "table.pkl"
    save_similarity(path, filled(HART_1024), HART_1024)
    refused(path, "use .json", schedule=VAR_256)


def pt_bytes(document: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(document, buffer, **options)
    return buffer.getvalue()


def pair(tensor: object) -> dict:
    return {"mlp": tensor, "attn": tensor}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (pair(torch.zeros(DEPTH, 12)), "expected 13 columns.*found 12"),
        (pair(torch.zeros(3, 13)), r"expected \(2, transitions\) .*found \(3, 13\)"),
        ({"mlp": torch.zeros(2, 9), "attn": torch.zeros(2, 13)}, "mlp: expected 13 columns"),
        (pair(torch.full((DEPTH, 13), float("nan"))), "found nan"),
        (pair(torch.full((DEPTH, 13), -1.5)), "found -1.5"),
        (pair(torch.zeros(DEPTH, 13, dtype=torch.int64)), "torch.int64"),
        (pair(torch.zeros(DEPTH, 13, 1)), r"found \(2, 13, 1\)"),
        (pair(torch.zeros(DEPTH, 13).to_sparse()), "dense tensor"),
        (pair(torch.zeros(1).expand(2**40, 13)), f"found .{2**40}, 13."),
        (pair([[0.0] * 13] * DEPTH), "dense tensor, found list"),
        ({"mlp": torch.zeros(DEPTH, 13)}, "expected the keys attn, mlp; found 'mlp'"),
        (torch.zeros(DEPTH, 13), "expected a dictionary, found a Tensor"),
    ],
)
def test_wrong_pt_files_are_refused(tmp_path, document, message):
    path = tmp_path / "table.pt"
    path.write_bytes(pt_bytes(document))
    refused(path, message)


def test_broken_pt_files_are_refused(tmp_path):
    path = tmp_path / "table.pt"
    whole = pt_bytes(pair(torch.zeros(DEPTH, 13)))
    old_format = pt_bytes(pair(torch.zeros(DEPTH, 13)), _use_new_zipfile_serialization=False)
    for data in (b"", b"PK", whole[: len(whole) // 2], whole[50:], old_format):
        path.write_bytes(data)
        refused(path, "not a usable .pt similarity file")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "table.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(64 << 20))
    assert path.stat().st_size < MAX_FILE_BYTES
    refused(path, "bytes unpacked")


@pytest.mark.parametrize("suffix", [".json", ".pt", ".pkl"])
def test_large_files_and_folders_are_refused_without_reading_them(tmp_path, suffix):
    large = tmp_path / f"large{suffix}"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    refused(large, f"at most {MAX_FILE_BYTES} bytes, found {1 << 40}")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    refused(folder, "regular file")


def test_a_named_pipe_does_not_hang_the_reader(tmp_path):
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    refused(path, "regular file")


def test_a_missing_file_and_an_unknown_suffix(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_similarity(tmp_path / "none.json", DEPTH, HART_1024)
    (tmp_path / "table.txt").write_text("{}")
    refused(tmp_path / "table.txt", r"\.json, \.pt, \.pkl; found '\.txt'")
