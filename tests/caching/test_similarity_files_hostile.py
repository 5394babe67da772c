"""Similarity files that are broken, do not fit, or mean harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from hart.modules.networks.caching.similarity_io import (
    MAX_BLOCKS,
    MAX_FILE_BYTES,
    SimilarityFileError,
    load_similarity,
    read_similarity,
    save_similarity,
)

from .similarity_files import DEPTH, HART_1024, filled, refused

NAN = float("nan")


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
        ({"images": 10**400}, "images must be at most"),  # an average with it would overflow
        ({"patch_nums": [1, 2, 3], "attn": [[0.5] * 2] * 2}, "expected 15 columns, found 2"),
        ({"fingerprint": 5}, "fingerprint has the type int"),
    ],
)
def test_wrong_json_documents_are_refused(tmp_path, changes, message):
    refused(json_with(tmp_path, **changes), message)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"not json",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b"1" * 10_000,
        b'{"a": 1, "a": 2}',
    ],
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
        (pickle.dumps({"mlp": [[NAN] * 15] * 2, "attn": [[NAN] * 15] * 2}), "found nan"),
        (pickle.dumps({"mlp": [[0.0] * 15] * 3, "attn": [[0.0] * 15] * 3}), "2 rows.*found 3"),
        (pickle.dumps({"mlp": [[1 << 9999] * 15] * 2, "attn": [[1 << 9999] * 15] * 2}), "huge"),
        (pickle.dumps(nested_tuple()), "found (TUPLE|EMPTY_TUPLE)"),
        (pickle.dumps({1, 2}), "found (EMPTY_SET|GLOBAL)"),
        (pickle.dumps(bytearray(4)), "BYTEARRAY8|GLOBAL"),
        (pickle.dumps(torch.zeros(1)), "found (GLOBAL|STACK_GLOBAL|BINBYTES)"),
        (b"\x80\x04]r\xff\xff\xff\x7f.", "memo index"),  # would allocate gigabytes
        (b"(lp99999999999\n.", "memo index"),
        (b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"}.", "not a usable"),  # frame
        (b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"text.", "not a usable"),
        (b"\x80\x04\x8b" + (1 << 30).to_bytes(4, "little") + b"\x01.", "not a usable"),
        (pickle.dumps({"mlp": [], "attn": []}) + b"\0", "bytes after the end"),
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


@pytest.mark.parametrize("claimed", [0xFFFFFFF0, 16])
def test_a_zip_header_that_lies_about_its_sizes_is_refused(tmp_path, claimed):
    path = tmp_path / "table.pt"
    data = bytearray(pt_bytes(pair(torch.zeros(DEPTH, 13))))
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = claimed.to_bytes(4, "little") * 2  # packed, unpacked
    path.write_bytes(data)
    refused(path, "not a usable .pt similarity file")


# Without a model that says what is expected


@pytest.mark.parametrize("suffix", [".json", ".pt", ".pkl"])
@pytest.mark.parametrize("depth", [0, MAX_BLOCKS + 1])
def test_an_absurd_depth_is_refused_where_no_model_says_the_right_one(tmp_path, suffix, depth):
    path = tmp_path / f"table{suffix}"
    rows = [[0.0] * 15] * depth
    if suffix == ".json":
        path = json_with(tmp_path, depth=depth, attn=rows, mlp=rows)
    elif suffix == ".pt":
        path.write_bytes(pt_bytes(pair(torch.zeros(1).expand(depth, 9))))
    else:
        path.write_bytes(pickle.dumps({"mlp": rows, "attn": rows}))
    with pytest.raises(SimilarityFileError, match=f"1 to {MAX_BLOCKS}.*found .?{depth}"):
        read_similarity(path)


def test_two_tables_of_different_depths_are_refused_without_a_model(tmp_path):
    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps({"mlp": [[0.0] * 15] * 3, "attn": [[0.0] * 15] * 2}))
    with pytest.raises(SimilarityFileError, match=r"mlp table: expected 2 rows .*found 3"):
        read_similarity(path)


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
