"""Checkpoints that are wrong in every way: named in one line, in no time, without allocating.

What loads must be harmless: it has to draw, decode or encode afterwards.
"""

from __future__ import annotations

import contextlib
import resource
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hart.modules.models.autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from hart.pipeline.folders import locate_checkpoint
from hart.pipeline.text import encode_unique, load_text_encoder
from hart.utils.weights import CheckpointError
from tests.reliability import nonsense
from tests.tiny_models import draw

MAX_SECONDS, MAX_BYTES = 2.0, 300 << 20
CPU = torch.device("cpu")
KINDS = {"text": (str,), "number": (int, float), "flag": (bool,), "list": (list,)}


@dataclass
class Bench:
    """A copy of good checkpoints, of which one file at a time is changed."""

    root: Path
    good: dict[str, bytes]
    vae: HARTAutoEncoder

    @contextlib.contextmanager
    def changed(self, case: nonsense.Case):
        file = self.root / case.file
        others = [] if file.is_file() else [file.with_name("model.safetensors")]
        for other in others:
            other.rename(other.with_suffix(".away"))
        file.write_bytes(case.make(self.content(case.file)))
        try:
            yield
        finally:
            file.unlink()
            for other in others:
                other.with_suffix(".away").rename(other)
            if case.file in self.good:
                file.write_bytes(self.good[case.file])

    def content(self, name: str) -> bytes:
        if name not in self.good:  # a .bin in the place of the safetensors file
            beside = str(Path(name).with_name("model.safetensors"))
            return nonsense.saved(nonsense.read(self.good[beside], beside), name)
        return self.good[name]

    def use(self, name: str) -> None:
        """Load the part that a file belongs to and let it work."""
        part = name.split("/")[0]
        {"llm": self.draw, "tokenizer": self.decode, "text_model": self.encode, "var": self.var}[
            part
        ](name)

    def draw(self, name: str) -> None:
        folders = locate_checkpoint(self.root)
        model = HARTForT2IEnhanced.from_pretrained(folders.llm, use_ema="ema" in name, vae=self.vae)
        with loaded():
            assert draw(model).isfinite().all()

    def decode(self, name: str) -> None:
        model = HARTAutoEncoder.from_tokenizer_folder(self.root / "tokenizer", torch.float32)
        with loaded(), torch.no_grad():
            side = model.config.v_patch_nums[-1]
            maps = torch.zeros(1, model.config.z_channels, side, side)
            assert model.fhat_to_img(maps).isfinite().all()
            assert model.img_to_reconstructed_img(model.fhat_to_img(maps))[0].isfinite().all()

    def encode(self, name: str) -> None:
        folders = locate_checkpoint(self.root)
        text_model, tokenizer = load_text_encoder(folders, 48, torch.float32, CPU)
        with loaded():
            features, _, _ = encode_unique(["a fox", "a b"], text_model, tokenizer, 12, "one of")
            assert features.shape == (2, 12, 48)
            assert features.isfinite().all()

    def var(self, name: str) -> None:
        model = VARForC2IEnhanced.from_pretrained(self.root / "var", dtype=torch.float32)
        _ = model.vae_proxy
        with loaded():
            assert model.autoregressive_infer_cfg(1, label_B=1).isfinite().all()


class Harmful(Exception):  # noqa: N818
    """A checkpoint was loaded, and failed later."""


@contextlib.contextmanager
def loaded():
    try:
        yield
    except Exception as error:
        raise Harmful(f"{type(error).__name__}: {error}") from error


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    root = nonsense.make_checkpoints(tmp_path_factory.mktemp("nonsense"))
    good = {
        str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()
    }
    return Bench(root, good, HARTAutoEncoder.from_tokenizer_folder(root / "tokenizer"))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refusals(bench: Bench, cases) -> dict[str, str | None]:
    """The message of every case, None for those that load and work; checks what all must hold."""
    messages, wrong = {}, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases:
            with bench.changed(case):
                peak, start = peak_bytes(), time.process_time()
                try:
                    bench.use(case.file)
                    messages[str(case)] = None
                except CheckpointError as error:
                    messages[str(case)] = str(error)
                    if "\n" in str(error) or Path(case.file).parts[0] not in str(error):
                        wrong.append(f"{case}: {error}")
                except BaseException as error:
                    wrong.append(f"{case}: {type(error).__name__}: {error}")
                seconds, more = time.process_time() - start, peak_bytes() - peak
            if seconds > MAX_SECONDS or more > MAX_BYTES:
                wrong.append(f"{case}: {seconds:.1f} s, {more >> 20} MiB")
    assert not wrong, f"{len(wrong)} of {len(messages)}:\n" + "\n".join(wrong)
    return messages


def test_every_field_of_every_configuration(bench):
    cases = list(nonsense.field_cases(bench.root))
    messages = refusals(bench, cases)
    print(len(cases), sum(m is None for m in messages.values()))
    for c, m in messages.items():
        print(
            "LOADS" if m is None else "      ", c, "" if m is None else m.split("test_")[0][-150:]
        )


def test_fields_that_no_table_has(bench):
    messages = refusals(bench, nonsense.extra_field_cases())
    for c, m in messages.items():
        print("LOADS" if m is None else "      ", c, "" if m is None else m[-150:])


def test_json_files(bench):
    messages = refusals(bench, nonsense.json_cases(bench.root))
    for c, m in messages.items():
        print("LOADS" if m is None else "      ", c, "" if m is None else m[-150:])


def test_weights(bench):
    files = nonsense.WEIGHTS + nonsense.PICKLES
    messages = refusals(bench, nonsense.weight_cases(files))
    for c, m in messages.items():
        print("LOADS" if m is None else "      ", c, "" if m is None else m[-150:])


def test_bytes(bench):
    files = nonsense.WEIGHTS + nonsense.PICKLES
    messages = refusals(
        bench,
        [
            *nonsense.byte_cases(files),
            *nonsense.header_cases(),
            *nonsense.archive_cases(nonsense.PICKLES),
        ],
    )
    for c, m in messages.items():
        print("LOADS" if m is None else "      ", c, "" if m is None else m[-150:])


def test_var(bench):
    messages = refusals(
        bench,
        [
            *nonsense.weight_cases(nonsense.VAR_FILES),
            *nonsense.byte_cases(nonsense.VAR_FILES),
            *nonsense.archive_cases(nonsense.VAR_FILES),
        ],
    )
    for c, m in messages.items():
        print("LOADS" if m is None else "      ", c, "" if m is None else m[-150:])
