"""Everything that can be wrong with weight files; see ``nonsense.py``."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator

import torch
from safetensors.torch import load, save

from tests.reliability.nonsense import Case

WEIGHTS = ("llm/model.safetensors", "tokenizer/model.safetensors", "text_model/model.safetensors")
PICKLES = ("llm/ema_model.bin", "llm/pytorch_model.bin", "tokenizer/pytorch_model.bin")
VAR_FILES = ("var/var_tiny.pth", "var/vae_tiny.pth")


def state_changes() -> dict[str, Callable[[torch.Tensor], object]]:
    """What becomes of one weight (n, m)."""
    return {
        "one row more": lambda t: torch.cat([t, t[:1]]),
        "no row": lambda t: t[:0],
        "flat": lambda t: t.flatten(),
        "a scalar": lambda t: t.flatten()[0].clone(),
        "int64": lambda t: t.long(),
        "uint8": lambda t: t.to(torch.uint8),
        "bool": lambda t: t > 0,
        "complex": lambda t: t.to(torch.complex64),
        "float8": lambda t: t.to(torch.float8_e4m3fn),
        "NaN": lambda t: torch.where(t == t[0, 0], torch.nan, t),
        "infinite": lambda t: torch.where(t == t[0, 0], -torch.inf, t),
        "half": lambda t: t.half(),  # harmless
    }


def pickled_changes() -> dict[str, Callable[[torch.Tensor], object]]:
    """What only a pickle can hold."""
    return {
        "meta": lambda t: t.to("meta"),
        "sparse": lambda t: t.to_sparse(),
        "sparse rows": lambda t: t.to_sparse_csr(),
        "expanded": lambda t: torch.zeros(1, 1).expand(t.shape),
        "expanded far": lambda t: torch.zeros(1, 1).expand(1 << 20, 1 << 20),
        "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        "transposed in memory": lambda t: t.T.contiguous().T,  # harmless
        "a parameter": lambda t: torch.nn.Parameter(t),  # harmless
        "a list": lambda t: t.tolist(),
        "a number": lambda t: 3,
        "nothing": lambda t: None,
        "a dictionary": lambda t: {"weight": t},
        "bytes": lambda t: bytearray(10),
    }


def key_changes() -> dict[str, Callable[[dict], dict]]:
    return {
        "no tensors": lambda state: {},
        "first missing": lambda state: dict(list(state.items())[1:]),
        "last missing": lambda state: dict(list(state.items())[:-1]),
        "one more": lambda state: {**state, "more.weight": torch.zeros(1)},
        "layer 99999999": lambda state: {**state, "blocks.99999999.x": torch.zeros(1)},
        "layer of letters": lambda state: {**state, "blocks.x.y": torch.zeros(1)},
        "all transposed": lambda state: {key: t.T.contiguous() for key, t in state.items()},
        "all int8": lambda state: {key: t.to(torch.int8) for key, t in state.items()},
        "all flat": lambda state: {key: t.flatten() for key, t in state.items()},
        "all empty": lambda state: {key: t.flatten()[:0] for key, t in state.items()},
    }


def aliased(state: dict) -> dict:
    """Every tensor a view of one: more numbers than the file has."""
    storage = torch.zeros(max(tensor.numel() for tensor in state.values()))
    return {key: storage[: t.numel()].view(t.shape) for key, t in state.items()}


def odd_keys(state: dict) -> dict:
    return {**state, 3: torch.zeros(1)}


PICKLED_KEY_CHANGES = {"aliased": aliased, "a number as key": odd_keys, "a list": list}


def saved(state: object, file: str) -> bytes:
    if file.endswith(".safetensors"):
        return save({key: tensor.contiguous() for key, tensor in state.items()})
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read(content: bytes, file: str) -> dict:
    if file.endswith(".safetensors"):
        return load(content)
    return torch.load(io.BytesIO(content), weights_only=True)


def changed_state(file: str, change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    return lambda content: saved(change(read(content, file)), file)


def changed_weight(change: Callable[[torch.Tensor], object]) -> Callable[[dict], dict]:
    def apply(state: dict) -> dict:
        names = ("word_embed.weight", "quantize.embedding.weight", "embed_tokens.weight")
        key = next(key for key in state if key.endswith(names))
        return {**state, key: change(state[key])}

    return apply


def weight_cases(files: tuple[str, ...]) -> Iterator[Case]:
    for file in files:
        weights, keys = state_changes(), key_changes()
        if not file.endswith(".safetensors"):
            weights, keys = weights | pickled_changes(), keys | PICKLED_KEY_CHANGES
        else:
            weights.pop("complex")  # the format has none
        for what, change in weights.items():
            yield Case(file, f"a weight {what}", changed_state(file, changed_weight(change)))
        for what, change in keys.items():
            yield Case(file, what, changed_state(file, change))


def flipped(seed: int) -> Callable[[bytes], bytes]:
    """Some bytes of the first and last kilobytes replaced."""

    def make(content: bytes) -> bytes:
        rng, changed = random.Random(seed), bytearray(content)
        for _ in range(4):
            place = rng.randrange(min(len(content), 1500))
            changed[place if rng.random() < 0.6 else -1 - place] = rng.randrange(256)
        return bytes(changed)

    return make


def byte_cases(files: tuple[str, ...]) -> Iterator[Case]:
    changes: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda content: b"",
        "one byte": lambda content: b"\x80",
        "cut in the header": lambda content: content[:40],
        "cut in the middle": lambda content: content[: len(content) // 2],
        "cut at the end": lambda content: content[:-1],
        "byte after": lambda content: content + b"\0",
        "kilobyte after": lambda content: content + b"\1" * 1024,
        "text": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
        "HTML": lambda content: b"<!doctype html><html>not found</html>",
        "zeros": lambda content: bytes(len(content)),
        **{f"bytes {seed}": flipped(seed) for seed in range(8)},
    }
    for file in files:
        for what, change in changes.items():
            yield Case(file, what, change)


def header_cases() -> Iterator[Case]:
    """Headers of safetensors files that say something else than the data."""
    changes: dict[str, Callable[[bytes], bytes]] = {
        "length 2**63": lambda content: struct.pack("<Q", 1 << 63) + content[8:],
        "length 2**26": lambda content: struct.pack("<Q", 1 << 26) + content[8:],
        "nested": lambda content: with_header(b'{"a":' + b"[" * 100_000),
        "a key twice": lambda content: with_header(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0"
        ),
        "shape of 10**30": lambda content: entry('"F32"', f"[{10**30}]"),
        "shape of 10**12": lambda content: entry('"F32"', f"[{10**12}]"),
        "negative shape": lambda content: entry('"F32"', "[-1]"),
        "shape of text": lambda content: entry('"F32"', '["1"]'),
        "no shape": lambda content: entry('"F32"', "null"),
        "unknown dtype": lambda content: entry('"F99"', "[1]"),
        "dtype of a list": lambda content: entry("[1]", "[1]"),
        "product overflows": lambda content: entry('"F32"', f"[{1 << 40}, {1 << 40}]"),
        "empty and large": lambda content: entry('"F32"', f"[0, {1 << 62}]", 0),
    }  # fmt: skip
    for file in WEIGHTS:
        for what, change in changes.items():
            yield Case(file, f"header: {what}", change)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype: str, shape: str, size: int = 4) -> bytes:
    header = f'{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":[0,{size}]}}}}'
    return with_header(header.encode(), bytes(size))


def archive_cases(files: tuple[str, ...]) -> Iterator[Case]:
    """Archives and pickles that hold more, or other things, than ``torch.save`` writes."""
    changes: dict[str, Callable[[bytes], bytes]] = {
        "compressed": lambda content: rezipped(content, compression=zipfile.ZIP_DEFLATED),
        "zeros that unpack": lambda content: rezipped(
            content, compression=zipfile.ZIP_DEFLATED, more={"x/data/zeros": bytes(1 << 26)}
        ),
        "an entry twice": lambda content: rezipped(content, twice=True),
        "a comment": lambda content: rezipped(content, comment=b"hello"),
        "bytes after STOP": lambda content: rezipped(content, pickle_end=b"\0\1\2"),
        "a pickle after STOP": lambda content: rezipped(content, pickle_end=pickle.dumps(3)),
        "a pickle without STOP": lambda content: rezipped(content, pickle_cut=1),
        "the old format": lambda content: legacy(content),  # harmless
        "the old format and more": lambda content: legacy(content) + b"\0",
        "the old format cut": lambda content: legacy(content)[:-1],
        "an old format that claims": lambda content: legacy(content).replace(
            b"FloatStorage", b"DoubleStorage"
        ),
        "a plain pickle": lambda content: pickle.dumps({"a": 1}, protocol=2),
        "a hostile memo": lambda content: b"\x80\x02}r" + struct.pack("<I", 1 << 31) + b".",
        "code": lambda content: pickle.dumps(Hostile(), protocol=2),
        "code in an archive": lambda content: rezipped(
            content, replaced=pickle.dumps({"a": Hostile()}, protocol=2)
        ),
    }
    for file in files:
        for what, change in changes.items():
            yield Case(file, what, change)


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a weight file was executed')",))


def legacy(content: bytes) -> bytes:
    buffer = io.BytesIO()
    state = torch.load(io.BytesIO(content), weights_only=True)
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def rezipped(
    content: bytes,
    compression: int = zipfile.ZIP_STORED,
    more: dict[str, bytes] | None = None,
    twice: bool = False,
    comment: bytes = b"",
    pickle_end: bytes = b"",
    pickle_cut: int = 0,
    replaced: bytes | None = None,
) -> bytes:
    """The archive written anew, with changes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data.pkl"):
                data = (replaced or data[: len(data) - pickle_cut]) + pickle_end
            for _ in range(1 + (twice and item.filename.endswith("data.pkl"))):
                new.writestr(item.filename, data, compression)
        for name, data in (more or {}).items():
            new.writestr(name, data, compression)
        new.comment = comment
    return buffer.getvalue()
