"""Tiny checkpoints of every kind, and everything that can be wrong with their texts.

What can be wrong with their weights is in ``nonsense_weights.py``. A :class:`Case` changes one
file. Cases are the same on every run and machine; of them all a test run takes a :func:`share`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hart.modules.models.autoencoder import HARTAutoEncoder, HARTAutoEncoderConfig
from hart.modules.models.autoencoder.vqvae import VQVAE
from hart.modules.models.transformer.configuration_var import VARForC2IConfig
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.var_transformer_c2i import VARForC2I
from tests.golden_data import write_model
from tests.reliability import SHARE
from tests.tiny_models import tiny_model

SIDES = (1, 2)

CONFIGS = (
    *("llm/config.json", "tokenizer/config.json", "text_model/config.json"),
    "text_model/tokenizer_config.json",
)


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


def share(cases: Iterable[Case], start: int = 0, keep: tuple[str, ...] = ()) -> list[Case]:
    """Every fourth case, and those that ``keep`` names; ``HART_FUZZ=4`` takes all of them.

    A field has 17 cases, so that every field is among them, each with other values.

    Args:
        cases: all of them.
        start: shifts which ones are taken, so that similar lists do not all leave out the same.
        keep: what the cases to take in any case end in.
    """
    part = min(SHARE / 4, 1)
    return [
        case
        for index, case in enumerate(cases, start)
        if int((index + 1) * part) > int(index * part) or case.what.endswith(keep)
    ]


def make_checkpoints(root: Path) -> Path:
    """``llm``, ``tokenizer``, ``text_model`` and ``var`` with random weights."""
    torch.manual_seed(0)
    vae = HARTAutoEncoderConfig(
        vocab_size=24, z_channels=4, ch=32, ch_mult=(1,), v_patch_nums=SIDES,
        quantizer_type="var_hybrid",
    )  # fmt: skip
    HARTAutoEncoder(vae).save_pretrained(root / "tokenizer")
    sizes = {"depth": 1, "embed_dim": 16, "patch_nums": SIDES}
    context = {"context_dim": 48, "context_token": 12}
    model = tiny_model(HARTForT2IEnhanced, num_sampling_steps="2", **sizes, **context)
    model.save_pretrained(root / "llm")
    torch.save(model.state_dict(), root / "llm" / "ema_model.bin")
    write_model("text-encoder", root / "text_model")
    (root / "var").mkdir()
    var = VARForC2IConfig(
        **{**sizes, "num_heads": 2, "num_classes": 5, "vocab_size": 24, "z_channels": 4}
    )
    torch.save(VARForC2I(var).state_dict(), root / "var" / "var_tiny.pth")
    config = HARTAutoEncoderConfig(vocab_size=24, z_channels=4, ch=32, v_patch_nums=SIDES)
    torch.save(VQVAE(config).state_dict(), root / "var" / "vae_tiny.pth")
    return root


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
            for what in ("null", "text", "object"):
                yield Case(file, f"{field} = {what}", with_field(field, VALUES[what]))


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
        "large": lambda content: content + b" " * (1 << 27),
    }
    for name in names:
        for what, change in changes.items():
            yield Case(name, what, change)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth + b","


def other_cases() -> Iterator[Case]:
    """Files that only some checkpoints have, and tokenizers that know too much."""
    for what, content in {
        "empty": b"{}",
        "weight_map a list": b'{"weight_map": ["model.safetensors"]}',
        "weight_map empty": b'{"weight_map": {}}',
        "a number": b'{"weight_map": {"a": 1}}',
        "a list": b'{"weight_map": {"a": ["x"]}}',
        "a shard that is not there": b'{"weight_map": {"a": "shard.safetensors"}}',
        "a shard with NUL": b'{"weight_map": {"a": "sh\\u0000ard"}}',
        "a shard outside": b'{"weight_map": {"a": "../tokenizer/model.safetensors"}}',
        "the index itself": b'{"weight_map": {"a": "model.safetensors.index.json"}}',
        "a key twice": b'{"weight_map": {"a": "x", "a": "y"}}',
        "nested deeply": b'{"weight_map": ' + nested(100_000)[:-1] + b"}",
    }.items():
        for part in ("llm", "tokenizer", "text_model"):
            yield Case(f"{part}/model.safetensors.index.json", what, lambda _, c=content: c)
    for what, change in {
        "an id beyond the rows": lambda t: t["model"]["vocab"].update({"fox": 10**6}),
        "an id just beyond": lambda t: t["model"]["vocab"].update({"fox": 420}),
        "a negative id": lambda t: t["model"]["vocab"].update({"fox": -1}),
        "no words": lambda t: t["model"].update({"vocab": {}}),
        "no model": lambda t: t.pop("model"),
        "another model": lambda t: t["model"].update({"type": "X"}),
        "merges of nothing": lambda t: t["model"].update({"merges": ["x y"]}),
        "an added id beyond": lambda t: t["added_tokens"][0].update({"id": 10**6}),
    }.items():
        yield Case("text_model/tokenizer.json", what, edited(change))


def edited(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    def make(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return make
