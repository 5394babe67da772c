"""Similarity files: ``.json`` with provenance, VAR's ``.pt``, HART's ``.pkl``.

====== =================================================== ========================
suffix content                                             columns
====== =================================================== ========================
.json  both tables, schedule, images, checkpoint, version  those of its schedule
.pt    dict ``mlp``/``attn`` of ``(depth, stages - 1)``    ordinal of the transition
.pkl   dict ``mlp``/``attn`` of ``depth`` lists of 15      ``length2iteration - 1``
====== =================================================== ========================

Reading never executes code from a file, and everything in it is checked before use.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .similarity import SimilarityTables, Table, validate_table
from .similarity_formats import (
    MAX_FILE_BYTES,
    DecodedFile,
    Provenance,
    decode_json,
    decode_pkl,
    decode_pt,
    encode_json,
    encode_pkl,
    encode_pt,
)
from .stages import StageSchedule

SUFFIXES = (".json", ".pt", ".pkl")


class SimilarityFileError(ValueError):
    """A similarity file is unusable; the message names it, what was expected and what was found."""


@dataclass(frozen=True)
class LoadedSimilarity:
    """A similarity file's content in the columns of the model that asked for it.

    Attributes:
        tables: similarities; 0, which never causes reuse, where the file has no such transition.
        provenance: where the table comes from.
        matched: number of the model's transitions that the file's schedule has too.
        total: number of the model's transitions.
    """

    tables: SimilarityTables
    provenance: Provenance
    matched: int
    total: int


def save_similarity(
    path: str | os.PathLike[str],
    tables: SimilarityTables,
    schedule: StageSchedule,
    *,
    fingerprint: str | None = None,
    library_version: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write both tables; the suffix chooses the format. Folders are created.

    The file is written beside its place and renamed, so that readers never see half of one.

    Args:
        path: file ending in ``.json``, ``.pt`` or ``.pkl``. Only ``.json`` keeps provenance.
        tables: similarities in the columns of ``schedule``.
        schedule: the model's stages.
        fingerprint: identifies the calibrated checkpoint.
        library_version: version of the writing library.
        extra: further JSON-able facts.

    Raises:
        SimilarityFileError: another suffix, a table that does not fit the schedule, a value that
            the format cannot hold, or a file too large to be read again.
        OSError: the file cannot be written.
    """
    path = Path(path)
    provenance = Provenance(
        schedule.patch_nums, tables.images, fingerprint, library_version, dict(extra or {})
    )
    try:
        tables.validate(tables.depth, schedule)
        data = _encode(path.suffix, tables, schedule, provenance)
    except (ValueError, TypeError) as error:
        raise SimilarityFileError(f"{path}: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise SimilarityFileError(
            f"{path}: {len(data)} bytes are more than the {MAX_FILE_BYTES} that are read"
        )
    _write_beside_and_rename(path, data)


def load_similarity(
    path: str | os.PathLike[str], depth: int, schedule: StageSchedule
) -> LoadedSimilarity:
    """Read a similarity file for a model; the suffix chooses the format.

    Between different schedules a transition is matched by its two token counts.

    Args:
        path: file ending in ``.json``, ``.pt`` or ``.pkl``.
        depth: number of blocks of the model.
        schedule: stages of the model.

    Raises:
        SimilarityFileError: the file is not what its suffix says, does not fit the model, or holds
            something that is not a similarity.
        OSError: the file cannot be read.
    """
    path = Path(path)
    data = _read_limited(path)
    try:
        decoded = _decode(path.suffix, data, depth, schedule)
    except Exception as error:  # parsers of hostile bytes fail in many ways
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise SimilarityFileError(
            f"{path} is not a usable {path.suffix} similarity file: {reason}"
        ) from error
    source = StageSchedule(decoded.provenance.patch_nums)
    for site in ("attn", "mlp"):
        try:
            validate_table(getattr(decoded, site), depth, source.width, f"{site} table")
        except ValueError as error:
            raise SimilarityFileError(f"{path}, {error}") from error
    matched = set(source.transitions) & set(schedule.transitions)
    tables = SimilarityTables(
        attn=_transfer(decoded.attn, source, schedule),
        mlp=_transfer(decoded.mlp, source, schedule),
        images=decoded.provenance.images,
    )
    return LoadedSimilarity(tables, decoded.provenance, len(matched), schedule.num_transitions)


def _encode(
    suffix: str, tables: SimilarityTables, schedule: StageSchedule, provenance: Provenance
) -> bytes:
    if suffix == ".json":
        return encode_json(tables, provenance)
    if suffix == ".pt":
        return encode_pt(tables, schedule)
    if suffix == ".pkl":
        return encode_pkl(tables, schedule)
    raise ValueError(_bad_suffix(suffix))


def _decode(suffix: str, data: bytes, depth: int, schedule: StageSchedule) -> DecodedFile:
    if suffix == ".json":
        return decode_json(data)
    if suffix == ".pt":
        return decode_pt(data, depth, schedule)
    if suffix == ".pkl":
        return decode_pkl(data, schedule)
    raise ValueError(_bad_suffix(suffix))


def _bad_suffix(suffix: str) -> str:
    return f"expected a file ending in {', '.join(SUFFIXES)}; found {suffix or 'no suffix'!r}"


def _transfer(table: Table, source: StageSchedule, target: StageSchedule) -> Table:
    """Move a table's values from the columns of one schedule to those of another."""
    columns = dict(zip(source.transitions, source.columns, strict=True))
    moves = [
        (columns[transition], column)
        for transition, column in zip(target.transitions, target.columns, strict=True)
        if transition in columns
    ]
    rows = []
    for source_row in table:
        row = [0.0] * target.width
        for old, new in moves:
            row[new] = float(source_row[old])
        rows.append(row)
    return rows


def _read_limited(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe or device has no end
        raise SimilarityFileError(f"{path}: expected a regular file")
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise SimilarityFileError(
            f"{path}: expected at most {MAX_FILE_BYTES} bytes, found {path.stat().st_size}"
        )
    return data


def _write_beside_and_rename(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
