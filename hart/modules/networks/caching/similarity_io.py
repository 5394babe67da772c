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
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart.utils.files import make_folder, read_limited, replacing

from .config import SITES
from .similarity import SimilarityTables, Table, validate_table
from .similarity_formats import FORMATS, MAX_BLOCKS, MAX_FILE_BYTES, Format, Provenance
from .stages import StageSchedule

SIMILARITY_FILE = "cache_similarity.json"
"""Name of the table in a model's folder."""


def similarity_file_of(checkpoint: Path) -> Path:
    """Where a checkpoint's own table is: in its folder, or beside its file under the file's name.

    A folder of VAR's ``.pth`` files may hold several models.
    """
    if checkpoint.is_file():
        return checkpoint.with_name(f"{checkpoint.stem}.{SIMILARITY_FILE}")
    return checkpoint / SIMILARITY_FILE


class SimilarityFileError(ValueError):
    """A similarity file is unusable; the message names it, what was expected and what was found."""


@dataclass(frozen=True)
class StoredSimilarity:
    """A similarity file's content in the columns of its own schedule.

    Attributes:
        tables: similarities of both sites, and the images that they average over.
        provenance: where the table comes from.
    """

    tables: SimilarityTables
    provenance: Provenance

    @property
    def schedule(self) -> StageSchedule:
        """The stages that the columns belong to."""
        return StageSchedule(self.provenance.patch_nums)


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

    The file is written beside its place and renamed, so that readers never see half of one, and
    would survive a power failure.

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
    data = _encode_checked(path, tables, schedule, provenance)
    make_folder(path.parent)
    with replacing(path, durable=True) as beside:
        beside.write_bytes(data)


def check_destination(path: str | os.PathLike[str], depth: int, schedule: StageSchedule) -> None:
    """Raise now what :func:`save_similarity` would raise later for a table of this shape.

    Creates the folder, and a file in it that it removes again.

    Raises:
        SimilarityFileError: the suffix is unknown, or the format cannot hold such a table.
        OSError: no file can be written there.
    """
    path = Path(path)
    tables = SimilarityTables.empty(depth, schedule)
    _encode_checked(path, tables, schedule, Provenance(schedule.patch_nums))
    if path.exists() and not path.is_file():
        raise SimilarityFileError(f"{path}: expected a regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def read_similarity(
    path: str | os.PathLike[str],
    schedule: StageSchedule | None = None,
    depth: int | None = None,
) -> StoredSimilarity:
    """Read a similarity file as it is; the suffix chooses the format.

    Args:
        path: file ending in ``.json``, ``.pt`` or ``.pkl``.
        schedule: stages of the columns where the file does not say: a ``.pt`` with another number
            of columns than VAR's nine, and a ``.pkl`` of another model than HART at 1024 pixels.
        depth: number of blocks that is required; by default any.

    Raises:
        SimilarityFileError: the file is not what its suffix says, has another depth, or holds
            something that is not a similarity.
        OSError: the file cannot be read.
    """
    path = Path(path)
    data = _read(path)
    try:
        tables, provenance = _format(path).decode(data, depth, schedule)
    except Exception as error:  # parsers of hostile bytes fail in many ways
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise SimilarityFileError(
            f"{path} is not a usable {path.suffix} similarity file: {reason}"
        ) from error
    try:
        return StoredSimilarity(_checked_tables(tables, provenance, depth), provenance)
    except ValueError as error:
        raise SimilarityFileError(f"{path}, {error}") from error


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
    return match_stages(read_similarity(path, schedule, depth), schedule)


def match_stages(stored: StoredSimilarity, schedule: StageSchedule) -> LoadedSimilarity:
    """Move a table to the columns of another schedule, transition by transition.

    A transition is matched by its two token counts; what has no match is 0 and never reused.
    """
    source = stored.schedule
    tables = SimilarityTables(
        attn=_transfer(stored.tables.attn, source, schedule),
        mlp=_transfer(stored.tables.mlp, source, schedule),
        images=stored.tables.images,
    )
    matched = set(source.transitions) & set(schedule.transitions)
    return LoadedSimilarity(tables, stored.provenance, len(matched), schedule.num_transitions)


def _depth_of(table: object) -> int:
    if not isinstance(table, list) or not 1 <= len(table) <= MAX_BLOCKS:
        found = len(table) if isinstance(table, list) else f"a {type(table).__name__}"
        raise ValueError(f"attn table: expected 1 to {MAX_BLOCKS} rows (blocks), found {found}")
    return len(table)


def _checked_tables(
    found: Mapping[str, Any], provenance: Provenance, depth: int | None
) -> SimilarityTables:
    width = StageSchedule(provenance.patch_nums).width
    if depth is None:
        depth = _depth_of(found["attn"])
    for site in SITES:
        validate_table(found[site], depth, width, f"{site} table")
    attn, mlp = ([list(map(float, row)) for row in found[site]] for site in SITES)
    return SimilarityTables(attn, mlp, provenance.images)


def _encode_checked(
    path: Path, tables: SimilarityTables, schedule: StageSchedule, provenance: Provenance
) -> bytes:
    try:
        tables.validate(tables.depth, schedule)
        data = _format(path).encode(tables, schedule, provenance)
    except (ValueError, TypeError) as error:
        raise SimilarityFileError(f"{path}: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise SimilarityFileError(
            f"{path}: {len(data)} bytes are more than the {MAX_FILE_BYTES} that are read"
        )
    return data


def _format(path: Path) -> Format:
    if path.suffix not in FORMATS:
        found = path.suffix or "no suffix"
        raise ValueError(f"expected a file ending in {', '.join(FORMATS)}; found {found!r}")
    return FORMATS[path.suffix]


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
            row[new] = source_row[old]
        rows.append(row)
    return rows


def _read(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_FILE_BYTES)
    except ValueError as error:
        raise SimilarityFileError(str(error)) from error
