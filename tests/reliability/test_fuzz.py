"""Whatever comes in, only documented errors come out, and no file outside the output folder.

A command ends with one of its exit codes, and with 2 it prints one line; a reader of files raises
the exception that its documentation names. Anything else fails the test with what caused it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import uuid
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given
from hypothesis import strategies as st

from hart.batch.jobs import read_jobs
from hart.cli.main import main
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.modules.networks.caching.similarity_io import SimilarityFileError, read_similarity
from hart.modules.networks.caching.stages import StageSchedule
from hart.pipeline import HARTPipeline
from tests.caching.similarity_files import filled
from tests.reliability.fuzz import JSON, TEXTS, examples, snapshot, with_changed_bytes

pytestmark = pytest.mark.slow


class Commands:
    """Runs commands in a folder; the checkpoint is read once, and an image is drawn once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *argv: str) -> int:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        before = snapshot(self.folder, "out")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(list(argv))
            except SystemExit as done:  # --help
                code = done.code
        assert code in (0, 1, 2)
        assert "Traceback" not in out.getvalue() + err.getvalue()
        if code == 2:
            errors = [line for line in err.getvalue().split("\n") if line.startswith("error: ")]
            assert len(errors) == 1, err.getvalue()
        assert snapshot(self.folder, "out") == before
        return code


@pytest.fixture(scope="module")
def commands(pipeline, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    known: dict = {}
    draw = HARTPipeline.draw_together

    def loaded(cls, model_path, *args, cache=None, **options):
        if cache is not None:
            pipeline.model.set_cache_config(cache)
        return pipeline

    def remembered(own, requests, **options):
        key = json.dumps([vars(request) for request in requests]), str(options)
        known[key] = known.get(key) or draw(own, requests, **options)
        return known[key]

    before = os.getcwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HARTPipeline, "from_pretrained", classmethod(loaded))
        patch.setattr(HARTPipeline, "draw_together", remembered)
        os.chdir(folder)
        yield Commands(folder)
        os.chdir(before)


FLAGS = [
    *("--seed", "--num_samples", "--batch_size", "--cfg_scale", "--top_p", "--dtype", "--device"),
    *("--more_smooth", "--max_token_length", "--use_ema", "--no-use_ema", "--quiet", "--no-such"),
    *("--cache-preset", "--cache-skip-stages", "--cache-cache-stages", "--cache-threshold"),
    *("--cache-enable-attn", "--cache-disable-mlp", "--cache-adaptive-threshold", "--use-cache"),
    *("--cache-interpolation-mode", "--no-use-cache", "--threshold", "--system_prompt_file"),
    *("--benchmark_runs", "--random-weights", "--assume-similarity", "--compare_configs"),
    *("--prompts", "--prompts_file", "--sim-path", "--help", "--text_model_path"),
]
VALUES = st.one_of(
    TEXTS,
    st.integers(-2, 300).map(str),
    st.floats(-1, 2).map(str),
    st.sampled_from([*CACHE_PRESETS, "cpu", "float32", "auto", "bilinear", "tiny", "64", "36"]),
)
WORDS = st.lists(st.one_of(st.sampled_from(FLAGS), VALUES), max_size=6)


@pytest.mark.parametrize("command", ["generate", "batch", "merge-similarity", "convert-similarity"])
@examples(30)
@given(words=WORDS)
def test_command_lines(commands, checkpoint, command, words):
    fixed = ["--output_dir", "out", "--model_path", str(checkpoint)]
    if command == "batch":
        (commands.folder / "one.txt").write_text("a fox\n")
        fixed += ["--prompts_file", "one.txt"]
    elif command != "generate":
        fixed = ["--output", "out/table.json"] if command == "merge-similarity" else []
    commands(command, *words, *fixed)


@examples(25)
@given(text=TEXTS, seed=st.one_of(st.none(), st.integers(0, 3)))
def test_prompts(commands, checkpoint, text, seed):
    prompts = commands.folder / "prompts.jsonl"
    entry = {"prompt": text} if seed is None else {"prompt": text, "seed": seed}
    prompts.write_text(json.dumps(entry) + "\n" + '{"prompt": "a fox"}\n')
    model = ("--model_path", str(checkpoint), "--no-use_llm_system_prompt", "--output_dir", "out")
    code = commands("batch", "--prompts_file", "prompts.jsonl", *model)
    names = {file.name for file in (commands.folder / "out").glob("*.png")}
    assert names == ({"000000.png", "000001.png"} if code == 0 else {"000001.png"})


@examples(100)
@given(
    content=st.one_of(
        st.binary(max_size=100),
        st.lists(JSON, max_size=3).map(lambda values: "\n".join(map(json.dumps, values)).encode()),
        st.lists(TEXTS, max_size=3)
        .map(lambda texts: "prompt\n" + "\n".join(texts))
        .map(lambda text: text.encode("utf-8", errors="surrogatepass")),
    ),
    suffix=st.sampled_from([".txt", ".jsonl", ".json", ".csv", ".tsv"]),
)
def test_files_of_prompts(commands, content, suffix):
    file = commands.folder / f"file{suffix}"
    file.write_bytes(content)
    with contextlib.suppress(ValueError):
        found = read_jobs(file)
        assert found.jobs or found.bad


@examples(100)
@given(fields=st.dictionaries(st.sampled_from([*CacheConfig().to_dict(), "other"]), JSON))
def test_cache_configurations(fields):
    with contextlib.suppress(ValueError, TypeError):
        config = CacheConfig.from_dict(fields)
        assert CacheConfig.from_dict(config.to_dict()) == config


def similarity_bytes(folder: Path, suffix: str) -> bytes:
    from hart.modules.networks.caching.similarity_io import save_similarity

    path = folder / f"{uuid.uuid4().hex}{suffix}"
    schedule = StageSchedule((1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64))
    save_similarity(path, filled(schedule), schedule)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.parametrize("suffix", [".json", ".pt", ".pkl"])
@examples(80)
@given(data=st.data())
def test_similarity_files(tmp_path_factory, suffix, data):
    folder = tmp_path_factory.getbasetemp()
    content = KNOWN.setdefault(suffix, None) or similarity_bytes(folder, suffix)
    KNOWN[suffix] = content
    file = folder / f"fuzzed{suffix}"
    file.write_bytes(data.draw(with_changed_bytes(content)))
    with contextlib.suppress(SimilarityFileError):
        read_similarity(file)


KNOWN: dict[str, bytes | None] = {}


@examples(100)
@given(document=JSON, key=st.sampled_from(["attn", "mlp", "patch_nums", "images", "depth", "x"]))
def test_similarity_documents(tmp_path_factory, document, key):
    folder = tmp_path_factory.getbasetemp()
    content = KNOWN.get(".json") or similarity_bytes(folder, ".json")
    KNOWN[".json"] = content
    file = folder / "document.json"
    file.write_text(json.dumps({**json.loads(content), key: document}))
    with contextlib.suppress(SimilarityFileError):
        read_similarity(file)
