"""Bytes of a similarity file <-> plain lists, one pair of functions per format.

Reading never executes what a file says and never trusts its sizes: every decoder raises
``ValueError`` for what it does not expect. Values are checked by the caller.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from .similarity import SimilarityTables, Table
from .stages import HART_PATCH_NUMS, TABLE_WIDTH, VAR_PATCH_NUMS, StageSchedule

MAX_FILE_BYTES = 1 << 20
"""Largest file that is read, 1 MiB; tables of 64 blocks need about 50 KiB as JSON."""

MAX_BLOCKS = 1024
"""Largest depth that is believed where no model says how many blocks there are."""

MAX_IMAGES = 10**12
"""Largest number of calibrated images that is believed; averaging with it stays exact enough."""

FORMAT_NAME = "hart-cache-similarity"
FORMAT_VERSION = 1

_JSON_KEYS: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "format_version": int,
    "patch_nums": list,
    "depth": int,
    "images": int,
    "fingerprint": (str, type(None)),
    "library_version": (str, type(None)),
    "extra": dict,
    "attn": list,
    "mlp": list,
}

# No tuples: a nested one as a dictionary key is hashed recursively without limit. No sets, bytes,
# globals or calls.
_PLAIN = ("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE")
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE")
_LISTS = ("EMPTY_LIST", "LIST", "APPEND", "APPENDS")
_DICTS = ("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS")
_MEMO = ("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_PICKLE_OPCODES = frozenset((*_PLAIN, *_NUMBERS, *_TEXTS, *_LISTS, *_DICTS, *_MEMO))


@dataclass(frozen=True)
class Provenance:
    """Where a table comes from, as far as the file says.

    Attributes:
        patch_nums: schedule of its columns; for formats that do not name one, the assumed one.
        images: calibrated images, 0 if unknown.
        fingerprint: fingerprint of the calibrated checkpoint.
        library_version: version of the library that wrote the file.
        extra: further facts that the writer added.
    """

    patch_nums: tuple[int, ...]
    images: int = 0
    fingerprint: str | None = None
    library_version: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


Decoded = tuple[Mapping[str, Any], Provenance]
"""By site the unchecked tables, in the columns of the file's schedule; and where they are from."""


def encode_json(tables: SimilarityTables, schedule: StageSchedule, provenance: Provenance) -> bytes:
    """This library's format: both tables and their provenance."""
    document = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "patch_nums": list(provenance.patch_nums),
        "depth": tables.depth,
        "images": provenance.images,
        "fingerprint": provenance.fingerprint,
        "library_version": provenance.library_version,
        "extra": provenance.extra,
        "attn": tables.attn,
        "mlp": tables.mlp,
    }
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def decode_json(
    data: bytes, depth: int | None = None, schedule: StageSchedule | None = None
) -> Decoded:
    """Read :func:`encode_json`'s format; unknown and missing keys are errors."""
    document = json.loads(data, object_pairs_hook=_without_repetition)
    _require_keys(document, _JSON_KEYS)
    for key, allowed in _JSON_KEYS.items():
        if not isinstance(document[key], allowed) or isinstance(document[key], bool):
            raise ValueError(f"{key} has the type {type(document[key]).__name__}")
    if document["format"] != FORMAT_NAME:
        raise ValueError(f"expected format {FORMAT_NAME!r}, found {document['format']!r:.80}")
    if document["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"expected format_version {FORMAT_VERSION}, found {document['format_version']}"
        )
    if document["images"] < 0:
        raise ValueError(f"images must not be negative, found {document['images']}")
    if document["images"] > MAX_IMAGES:
        raise ValueError(f"images must be at most {MAX_IMAGES}")
    for site in ("attn", "mlp"):
        if len(document[site]) != document["depth"]:
            raise ValueError(
                f"depth says {document['depth']}, the {site} table has {len(document[site])} rows"
            )
    schedule = StageSchedule(document["patch_nums"])
    names = ("images", "fingerprint", "library_version", "extra")
    provenance = Provenance(schedule.patch_nums, **{name: document[name] for name in names})
    return document, provenance


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is given twice")
    return content


def encode_pt(tables: SimilarityTables, schedule: StageSchedule, provenance: Provenance) -> bytes:
    """VAR's format: a dict of float32 tensors ``(depth, stages - 1)``, transitions in order."""
    columns = list(schedule.columns)
    buffer = io.BytesIO()
    torch.save(
        {site: torch.tensor(tables.site(site))[:, columns].clone() for site in ("mlp", "attn")},
        buffer,
    )
    return buffer.getvalue()


def decode_pt(
    data: bytes, depth: int | None = None, schedule: StageSchedule | None = None
) -> Decoded:
    """Read VAR's format.

    The file does not name its schedule. As many columns as ``schedule`` has transitions means
    that one; otherwise nine columns mean :data:`VAR_PATCH_NUMS` and thirteen
    :data:`HART_PATCH_NUMS`. Without a ``depth`` any number of blocks up to :data:`MAX_BLOCKS` is
    read.
    """
    document = _load_tensors(data)
    _require_keys(document, {"attn": None, "mlp": None})
    for site, tensor in document.items():
        _require_matrix(tensor, site, depth)
    source = _schedule_of_columns(document["attn"].shape[1], schedule)
    tables = {site: _spread(tensor, source, site) for site, tensor in document.items()}
    return tables, Provenance(source.patch_nums)


def _load_tensors(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # the older format allocates on its word
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > MAX_FILE_BYTES:
        raise ValueError(f"expected at most {MAX_FILE_BYTES} bytes unpacked, found {unpacked}")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises to load the file unsafely
        raise ValueError("expected tensors and plain containers only") from error


def _require_matrix(tensor: object, site: str, depth: int | None) -> None:
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise ValueError(f"{site}: expected a dense tensor, found {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ValueError(f"{site}: expected floats, found {tensor.dtype}")
    allowed = range(1, MAX_BLOCKS + 1) if depth is None else (depth,)
    if tensor.dim() != 2 or tensor.shape[0] not in allowed:
        blocks = f"1 to {MAX_BLOCKS}" if depth is None else depth
        raise ValueError(
            f"{site}: expected ({blocks}, transitions) for {blocks} blocks, "
            f"found {tuple(tensor.shape)}"
        )


def _schedule_of_columns(columns: int, schedule: StageSchedule | None) -> StageSchedule:
    var, hart = StageSchedule(VAR_PATCH_NUMS), StageSchedule(HART_PATCH_NUMS)
    for candidate in (schedule, var, hart):
        if candidate is not None and columns == candidate.num_transitions:
            return candidate
    expected = (
        f"{var.num_transitions} columns for VAR at 256 pixels, {hart.num_transitions} for HART at "
        "1024"
    )
    if schedule is None:
        raise ValueError(f"expected {expected}, found {columns}: name the stages they belong to")
    raise ValueError(
        f"expected {schedule.num_transitions} columns, one per transition of the model, or "
        f"{expected}; found {columns}"
    )


def _spread(tensor: torch.Tensor, schedule: StageSchedule, site: str) -> Table:
    """Put a tensor's ordinal columns where the schedule's tables have them."""
    if tensor.shape[1] != schedule.num_transitions:
        raise ValueError(
            f"{site}: expected {schedule.num_transitions} columns, found {tensor.shape[1]}"
        )
    rows = torch.zeros(tensor.shape[0], schedule.width, dtype=torch.float64)
    rows[:, list(schedule.columns)] = tensor.double()
    return rows.tolist()


def encode_pkl(tables: SimilarityTables, schedule: StageSchedule, provenance: Provenance) -> bytes:
    """HART's pickle: a dict of ``depth`` lists of 15 floats."""
    _require_hart(schedule)
    return pickle.dumps({"mlp": tables.mlp, "attn": tables.attn}, protocol=4)


def decode_pkl(
    data: bytes, depth: int | None = None, schedule: StageSchedule | None = None
) -> Decoded:
    """Read HART's pickle, which has no schedule: columns mean what ``length2iteration`` says.

    The schedule is :data:`HART_PATCH_NUMS`; another one of HART's selects from its stages.
    """
    if schedule is None or not schedule.is_hart:
        schedule = StageSchedule(HART_PATCH_NUMS)
    stream = io.BytesIO(data)
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name not in _PICKLE_OPCODES:
            raise ValueError(
                f"expected dictionaries, lists, numbers and text only, found {opcode.name}"
            )
        if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > len(data):
            raise ValueError("the memo index is larger than the file")  # it would be allocated
    if stream.read(1):
        raise ValueError("bytes after the end of the pickle")
    document = _PlainUnpickler(io.BytesIO(data)).load()
    _require_keys(document, {"attn": None, "mlp": None})
    return document, Provenance(schedule.patch_nums)


class _PlainUnpickler(pickle.Unpickler):
    """Second lock behind the opcode check: resolves no name to an object."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"refused to load {module}.{name}")


def _require_hart(schedule: StageSchedule) -> None:
    if not schedule.is_hart:
        raise ValueError(
            f"a .pkl holds the {TABLE_WIDTH} columns of HART's stages, this model has the sides "
            f"{schedule.patch_nums}; use .json"
        )


def _require_keys(document: object, expected: Mapping[str, Any]) -> None:
    if not isinstance(document, dict):
        raise ValueError(f"expected a dictionary, found a {type(document).__name__}")
    if set(document) != set(expected):
        found = ", ".join(sorted(f"{key!r:.40}" for key in list(document)[:20])) or "none"
        raise ValueError(f"expected the keys {', '.join(sorted(expected))}; found {found}")


class Format(NamedTuple):
    """How one kind of file is written and read."""

    encode: Callable[[SimilarityTables, StageSchedule, Provenance], bytes]
    decode: Callable[[bytes, int | None, StageSchedule | None], Decoded]


FORMATS = {
    ".json": Format(encode_json, decode_json),
    ".pt": Format(encode_pt, decode_pt),
    ".pkl": Format(encode_pkl, decode_pkl),
}
"""By suffix; decoding takes the depth and the stages of the model that asks, where it is one."""
