"""Tiny checkpoints of every kind, and everything that can be wrong with their files.

A :class:`Case` changes one file of a fresh copy. Cases are the same on every run and machine.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hart.modules.models.autoencoder import HARTAutoEncoder, HARTAutoEncoderConfig
from hart.modules.models.autoencoder.vqvae import VQVAE
from hart.modules.models.transformer.configuration_var import VARForC2IConfig
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.var_transformer_c2i import VARForC2I
from tests.pipeline.checkpoint_folder import TEXT_MODEL, copy_model
from tests.tiny_models import tiny_model

SIDES = (1, 2, 3)

CONFIGS = (
    *("llm/config.json", "tokenizer/config.json", "text_model/config.json"),
    "text_model/tokenizer_config.json",
)
WEIGHTS = ("llm/model.safetensors", "tokenizer/model.safetensors", "text_model/model.safetensors")
PICKLES = ("llm/ema_model.bin", "llm/pytorch_model.bin", "tokenizer/pytorch_model.bin")
VAR_FILES = ("var/var_tiny.pth", "var/vae_tiny.pth")


@dataclass(frozen=True)
class Case:
    """One change of one file.

    Attributes:
        file: relative to the checkpoint's root.
        what: says the change.
        make: the bytes of the changed file, from those of the good one.
        field: the field of a configuration that is changed, if it is that.
        value: what it is changed to.
    """

    file: str
    what: str
    make: Callable[[bytes], bytes]
    field: str | None = None
    value: object = None

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


def make_checkpoints(root: Path) -> Path:
    """``llm``, ``tokenizer``, ``text_model`` and ``var`` with random weights."""
    torch.manual_seed(0)
    vae = HARTAutoEncoderConfig(
        vocab_size=24, z_channels=4, ch=32, ch_mult=(1,), v_patch_nums=SIDES,
        quantizer_type="var_hybrid",
    )  # fmt: skip
    HARTAutoEncoder(vae).save_pretrained(root / "tokenizer")
    sizes = {"depth": 2, "embed_dim": 16, "patch_nums": SIDES}
    context = {"context_dim": 48, "context_token": 12}
    model = tiny_model(HARTForT2IEnhanced, **sizes, **context)
    model.save_pretrained(root / "llm")
    torch.save(model.state_dict(), root / "llm" / "ema_model.bin")
    copy_model(TEXT_MODEL, root / "text_model")
    (root / "var").mkdir()
    var = VARForC2IConfig(
        **{**sizes, "num_heads": 2, "num_classes": 5, "vocab_size": 24, "z_channels": 4}
    )
    torch.save(VARForC2I(var).state_dict(), root / "var" / "var_tiny.pth")
    config = HARTAutoEncoderConfig(vocab_size=24, z_channels=4, ch=32, v_patch_nums=SIDES)
    torch.save(VQVAE(config).state_dict(), root / "var" / "vae_tiny.pth")
    return root


# --- fields of configurations -------------------------------------------------------------------

DEEP = "[" * 30 + "]" * 30
VALUES = {
    "null": "null",
    "true": "true",
    "text": '"x"',
    "NUL": '"a\\u0000b"',
    "long text": json.dumps("9" * 5000),
    "negative": "-1",
    "zero": "0",
    "large": "1000000000",
    "huge": "1" + "0" * 400,
    "fraction": "0.3",
    "NaN": "NaN",
    "infinite": "1e999",
    "empty list": "[]",
    "list": '["x", null, -1]',
    "large list": "[1, 1000000000]",
    "deep list": DEEP,
    "object": '{"a": {"b": NaN}}',
}


def with_field(field: str, value: str) -> Callable[[bytes], bytes]:
    """Set a field to a JSON text, which ``json.dumps`` may be unable to write."""

    def make(content: bytes) -> bytes:
        fields = json.loads(content)
        fields[field] = "@@"
        return json.dumps(fields).replace('"@@"', value).encode()

    return make


def field_cases(root: Path) -> Iterator[Case]:
    for file in CONFIGS:
        for field in json.loads((root / file).read_text()):
            for what, value in VALUES.items():
                yield Case(file, f"{field} = {what}", with_field(field, value), field, value)


EXTRA_FIELDS = (
    *("to_dict", "__class__", "__dict__", "attribute_map", "FIELDS", "use_return_dict"),
    *("quantization_config", "auto_map", "id2label", "attn_implementation", "num_labels"),
    *("_attn_implementation", "name_or_path", "_name_or_path", "return_dict", "my_field"),
)


def extra_field_cases() -> Iterator[Case]:
    for file in CONFIGS[:3]:
        for field in EXTRA_FIELDS:
            for what in ("null", "text", "large", "deep list", "object"):
                yield Case(file, f"{field} = {what}", with_field(field, VALUES[what]))


# --- files as a whole ---------------------------------------------------------------------------


def json_cases(root: Path) -> Iterator[Case]:
    names = [str(file.relative_to(root)) for file in sorted(root.glob("*/*.json"))]
    changes: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda content: b"",
        "cut": lambda content: content[: len(content) // 2],
        "list": lambda content: b"[1]",
        "null": lambda content: b"null",
        "text": lambda content: b'"config"',
        "key twice": lambda content: content.replace(b"{", b'{"twice": 1, "twice": 2,', 1),
        "nested deeply": lambda content: content.replace(b"{", b'{"deep": ' + nested(100_000), 1),
        "nested": lambda content: content.replace(b"{", b'{"deep": ' + nested(200), 1),
        "long number": lambda content: content.replace(b"{", b'{"n": ' + b"9" * 5000 + b",", 1),
        "UTF-16": lambda content: content.decode().encode("utf-16"),
        "not UTF-8": lambda content: content.replace(b"{", b'{"\xff": 1,', 1),
        "NULs": lambda content: bytes(len(content)),
        "bytes after": lambda content: content + b"{}",
        "large": lambda content: content + b" " * (1 << 28),
    }
    for name in names:
        for what, change in changes.items():
            yield Case(name, what, change)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth + b","


# --- weights ------------------------------------------------------------------------------------


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
        path = Path(file).name  # only its bytes matter
        del path
        from safetensors.torch import save

        return save({key: tensor.contiguous() for key, tensor in state.items()})
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read(content: bytes, file: str) -> dict:
    if file.endswith(".safetensors"):
        from safetensors.torch import load

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


# --- bytes of weight files ----------------------------------------------------------------------


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
