"""Checkpoints that are wrong in every way: named in one line, in no time, without allocating.

What loads must be harmless: it has to draw, decode or encode afterwards.
"""

from __future__ import annotations

import contextlib
import json
import resource
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from hart.modules.models.autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from hart.pipeline.folders import locate_checkpoint, resolve_system_prompt
from hart.pipeline.text import encode_unique, load_text_encoder
from hart.utils.weights import CheckpointError
from tests.reliability import nonsense
from tests.reliability import nonsense_weights as weights
from tests.tiny_models import draw

pytestmark = pytest.mark.slow

MAX_SECONDS, MAX_BYTES = 2.0, 300 << 20
CPU = torch.device("cpu")


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
            return weights.saved(weights.read(self.good[beside], beside), name)
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


class HarmError(Exception):
    """A checkpoint was loaded, and failed later."""


@contextlib.contextmanager
def loaded():
    try:
        yield
    except Exception as error:
        raise HarmError(f"{type(error).__name__}: {error}") from error


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    root = nonsense.make_checkpoints(tmp_path_factory.mktemp("nonsense"))
    good = {
        str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()
    }
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bench = Bench(root, good, HARTAutoEncoder.from_tokenizer_folder(root / "tokenizer"))
    for name in good:
        bench.use(name)  # the good ones work, and what is imported at first use is imported
    yield bench
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


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


def kind(value: str) -> str:
    """Of a JSON text: what a field that holds another kind must refuse."""
    parsed = json.loads(value)
    return "number" if type(parsed) in (int, float) else type(parsed).__name__


LOOSE = ("transformers_version", "architectures", "dtype", "vocab_size", "z_channels")
"""Fields that may be null, or that nobody reads."""


def test_every_field_of_every_configuration(bench):
    cases = nonsense.share(nonsense.field_cases(bench.root))
    for file in nonsense.CONFIGS:
        assert {c.field for c in cases if c.file == file} == set(json.loads(bench.good[file]))
    assert {case.value for case in cases} == set(nonsense.VALUES.values())
    assert len(cases) > 400
    messages = refusals(bench, cases)
    own = [case for case in cases if case.file in ("llm/config.json", "tokenizer/config.json")]
    for case in own:
        message, good = messages[str(case)], json.loads(bench.good[case.file])[case.field]
        if message is None:
            loose = case.field in LOOSE or good is None
            assert loose or kind(case.value) == kind(json.dumps(good)), case
        else:
            if "does not fit" in message:
                continue  # a variant whose weights are not there
            assert case.field in message, message
            assert "config.json" in message, message


def test_fields_that_no_table_has(bench):
    asked = ("my_field = object", "attribute_map = object", "to_dict = null", "FIELDS = object")
    messages = refusals(bench, nonsense.share(nonsense.extra_field_cases(), keep=asked))
    for part in ("llm", "tokenizer", "text_model"):
        assert messages[f"{part}/config.json my_field = object"] is None
        assert messages[f"{part}/config.json attribute_map = object"] is not None
    assert "'to_dict'" in messages["llm/config.json to_dict = null"]
    assert "'FIELDS'" in messages["llm/config.json FIELDS = object"]


def test_json_files(bench):
    messages = refusals(bench, nonsense.share(nonsense.json_cases(bench.root)))
    works = {case.partition(" ")[0] for case, message in messages.items() if message is None}
    assert works <= {"llm/generation_config.json"}  # which nobody reads


def test_indices_and_tokenizers(bench):
    asked = ("an added id beyond", "an id beyond the rows")
    messages = refusals(bench, nonsense.share(nonsense.other_cases(), keep=asked))
    works = [case for case, message in messages.items() if message is None]
    assert works == ["text_model/tokenizer.json an added id beyond"]  # it is given another one
    assert "1000001 entries" in messages["text_model/tokenizer.json an id beyond the rows"]


FILES = weights.WEIGHTS + weights.PICKLES + weights.VAR_FILES


@pytest.mark.parametrize("file", FILES)
def test_weights(bench, file):
    cases = list(weights.weight_cases((file,)))
    if file == weights.VAR_FILES[1]:  # ten megabytes each, and read by the same code
        cases = [case for case in cases if "row more" in str(case) or "int64" in str(case)]
    else:
        cases = nonsense.share(cases, start=FILES.index(file))
    messages = refusals(bench, cases)
    works = {case.removeprefix(f"{file} ") for case, message in messages.items() if message is None}
    harmless = {"a weight transposed in memory", "a weight a parameter"}
    assert harmless & {case.what for case in cases} <= works
    if not file.startswith("llm"):  # they are converted to one dtype there
        harmless.add("a weight half")
    if file.startswith("llm"):
        harmless |= {"first missing", "last missing"}  # where that is the constant lvl_1L
    if file.startswith("text_model"):  # the library leaves out what it does not know
        harmless |= {"one more", "layer 99999999", "layer of letters"}
    assert works <= harmless


def test_bytes_of_weight_files(bench):
    cases = [*weights.byte_cases(FILES), *weights.header_cases()]
    messages = refusals(bench, nonsense.share(cases))
    works = [case for case, message in messages.items() if message is None]
    assert all(" bytes " in case for case in works)  # a changed digit of a number is a number
    cases = weights.archive_cases(weights.PICKLES + weights.VAR_FILES)
    archives = refusals(bench, nonsense.share(cases, keep=("the old format",)))
    works = {case.split(" ", 1)[1] for case, message in archives.items() if message is None}
    assert works == {"the old format"}


def test_system_prompts(bench):
    file = bench.root / "llm" / "system_prompt.txt"
    folders = locate_checkpoint(bench.root)
    for content in (b"\xff", "a fox".encode("utf-16"), "a fox".encode("utf-16-le"), b"a" * 65537):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"system_prompt\.txt: "):
            resolve_system_prompt(folders, None)
    file.unlink()
