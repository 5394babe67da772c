"""The READMEs and the page on Python do what they say: every command and block of Python runs.

On a tiny model in the demo's place but for ``make demo``, and shortened by parameters.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path

import pytest

from hart.cli.commands import CommandParser
from hart.cli.main import generate_main, main
from hart.demo.scene import ATTRIBUTES
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS, preset_config
from hart.pipeline import GenerationOptions, VARGenerationOptions
from hart.utils.options import Option, options_of
from tests.demo_stand_in import put_in_the_demos_place
from tests.var.checkpoint import make_var_checkpoint

ROOT = Path(__file__).parent.parent
README, MANUAL = ROOT / "README.md", ROOT / "README_VAR_STYLE_CACHING.md"
PYTHON = ROOT / "docs" / "python.md"

# Words of the READMEs -> what stands there on a reader's machine.
PLACES = {
    "/path/to/hart-0.7b-1024px/llm": "checkpoint/llm",
    "/path/to/Qwen2-VL-1.5B-Instruct": "checkpoint/text_model",
    "/path/to/hart/llm": "checkpoint/llm",
    "/path/to/text/encoder": "checkpoint/text_model",
    "/path/to/var": "var",
}
# Flag -> the value that shortens it; for the flags that measure also where it is not given.
SHORTER = {"--demo_prompts": "1", "--random-weights": "tiny"}
# Installing these is left out.
EXTRAS = ([".[distributed]"],)
SHORTER_RUNS = {"--benchmark_runs": "1", "--benchmark_warmup": "0"}


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and content of the fenced blocks that are to be run."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", document.read_text("utf-8"), re.M | re.S)
    assert {language for language, _ in found} == {"bash", "python"}
    return found


def commands(block: str) -> list[str]:
    """The command lines of a block, without comments and line ends that continue."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def shortened(words: list[str]) -> list[str]:
    words = list(words)
    measures = "--benchmark" in words or "--compare_configs" in words
    added = SHORTER_RUNS if measures else {}
    if words[-1] == "--compare_configs":
        added = {"--demo_prompts": "1", **added}
    for flag, value in {**SHORTER, **added}.items():
        if flag in words:
            words[words.index(flag) + 1] = value
        elif flag in added:
            words += [flag, value]
    return words


class Reader:
    """Does what a README says, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict = {}
        self.ran: list[str] = []

    def follow(self, document: Path) -> None:
        for language, content in blocks(document):
            for place, stand_in in PLACES.items():
                content = content.replace(place, stand_in)
            if language == "python":
                exec(compile(content, f"{document.name}: {content[:40]}...", "exec"), self.names)
                self.ran.append("python block")
                continue
            for command in commands(content):
                self.run(command)
                self.ran.append(command)

    def run(self, command: str) -> None:
        words = shlex.split(command)
        if words[:2] == ["hart", "web"]:
            self.serve(words[1:])
        elif words[0] == "hart":
            assert main(shortened(words[1:])) == 0, command
        elif words[:2] == ["python", "enhanced_inference_cli.py"]:
            assert generate_main(shortened(words[2:])) == 0, command
        elif words[0] == "make":
            self.make(*words[1:])
        elif words[:2] == ["pip", "install"] and words[2].startswith("."):
            self.install()
        elif words[:2] == ["pip", "install"] and words[2:] in EXTRAS:
            pass  # what an extra brings cannot be had without a network
        elif words[0] == "torchrun":
            self.launch(words[1:])
        elif words[0] == "printf":
            subprocess.run(command, shell=True, check=True, cwd=self.folder)
        else:
            pytest.fail(f"nobody tests the command {command!r}")

    def serve(self, words: list[str]) -> None:
        """Start the page on a free port, fetch it, and stop it with Ctrl-C."""
        if importlib.util.find_spec("gradio") is None:
            assert main(words) == 2  # says which extra is missing
            return
        start = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from hart.cli.main import main; raise SystemExit(main())"
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command = [sys.executable, "-c", start, *words, "--port", port]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                line = next(line for line in server.stdout if "serves the page" in line)
                with urllib.request.urlopen(line.split()[0], timeout=60) as answer:
                    assert '"title":"hart"' in answer.read().decode("utf-8")  # in the page's config
                server.send_signal(signal.SIGINT)
                assert server.wait(60) == 0
            finally:
                server.kill()

    def launch(self, words: list[str]) -> None:
        """Run what every process would run as the only one; tests/batch starts several."""
        from torch.distributed.run import get_args_parser

        launched = get_args_parser().parse_args(words)
        assert (launched.module, launched.training_script) == (True, "hart")
        assert main(launched.training_script_args) == 0, words

    def make(self, target: str) -> None:
        """Run the target with this interpreter instead of a new environment's."""
        if shutil.which("make") is None:
            pytest.skip("there is no make")
        if target == "test":  # that is this run; it would start itself
            assert "-m pytest" in self._make("--dry-run", target)
            return
        self._make(target, f"OUTPUT={self.folder / 'outputs'}")
        assert len(list((self.folder / "outputs").glob("*.png"))) == 4

    def _make(self, *arguments: str) -> str:
        venv = self.folder / "venv"
        venv.mkdir(exist_ok=True)
        (venv / ".installed").touch()
        places = [f"VENV={venv}", f"BIN={Path(sys.executable).parent}"]
        done = subprocess.run(
            ["make", *arguments, *places], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self) -> None:
        """Install a copy of the sources, without what it depends on and without a network."""
        pytest.importorskip("setuptools")
        source, target = self.folder / "source", self.folder / "installed"
        if target.exists():
            return  # another extra of the same library
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "hart", source / "hart", ignore=leave_out)
        for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            shutil.copy(ROOT / name, source)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        offline = ["--no-build-isolation", "--no-index", "--target", str(target), str(source)]
        done = subprocess.run([*pip, *offline], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        files = {file.name for file in target.rglob("*")}
        data = {"cache_similarity.json", "system_prompt.txt", "style.css", "py.typed", "NOTICE"}
        assert {"generate.py", *data} <= files


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Reader:
    put_in_the_demos_place(tmp_path / "checkpoint", monkeypatch)
    make_var_checkpoint(tmp_path / "var", num_classes=1000)
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("document", [README, MANUAL, PYTHON], ids=lambda file: file.stem)
def test_everything_in_it_runs(reader, document):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the demo lacks some of the stages that it names
        reader.follow(document)
    assert "python block" in reader.ran
    assert document is PYTHON or any("--cache-preset" in command for command in reader.ran)


def flags_of(option: Option) -> str:
    return ", ".join(f"`{flag}`" for flag in option.flags)


def test_the_manual_has_the_cache_options_as_they_are_written():
    expected = []
    for name, option in options_of(CacheConfig).items():
        default = "none" if option.default in (None, ()) else f"`{option.default!r}`"
        meaning = f"{option.help} ({option.kind.text})"
        expected.append([f"`{name}`", flags_of(option), default, meaning])
    assert rows(section(MANUAL, "Configuration"))[2:] == expected


def test_the_manual_has_the_sampling_options_as_they_are_written():
    listed = {row[0]: row[2] for row in rows(section(MANUAL, "All flags"))}
    for kind in (GenerationOptions, VARGenerationOptions):
        for option in options_of(kind).values():
            assert not option.flags or listed[flags_of(option)] == option.help


def test_the_manual_lists_every_flag_once():
    from hart.cli.arguments import add_generate_arguments

    parser = CommandParser()
    add_generate_arguments(parser)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    options, table = (rows(section(MANUAL, title)) for title in ("Configuration", "All flags"))
    cells = [row[1] for row in options] + [row[0] for row in table]
    listed = [flag for cell in cells for flag in re.findall(r"`(--[\w-]+)`", cell)]
    assert sorted(listed) == sorted(set(flags) - {"-h", "--help"})
    for action in parser._actions:
        row = next((row for row in table if f"`{action.option_strings[0]}`" in row[0]), None)
        if row and action.choices and "--cache-preset" not in action.option_strings:
            assert set(re.findall(r"`([^`-][^`]*)`", row[2])) == set(action.choices), row


def test_the_manual_lists_every_preset_as_it_is():
    table = {row[0].strip("`"): row[1:] for row in rows(section(MANUAL, "Presets"))[2:]}
    for name, preset in CACHE_PRESETS.items():
        sites, threshold, other, *skips = table.pop(name)
        config = preset_config(name, range(1, 9))
        words = {("attn", "mlp"): "both", ("attn",): "attention", ("mlp",): "MLP", (): "none"}
        assert sites == words[config.enabled_sites], name
        assert threshold == (f"{preset.base.threshold:g}" if config.skip_stages else ""), name
        assert ("adaptive" in other) == preset.base.adaptive_threshold, name
        shares = ", ".join(f"{ratio:.0%}".replace("%", " %") for ratio in preset.prune_last)
        assert other.removeprefix("prunes ").startswith(shares), name
        assert ("prunes" in other) == bool(shares), name
        assert ("no guidance" in other) == bool(preset.unguided_last), name
        assert ("bicubic" in other) == (preset.base.interpolation_mode == "bicubic"), name
        published = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
        for listed, sides in zip(skips, (published, published[:12]), strict=True):
            lengths = preset_config(name, sides).skip_stages
            assert listed == ", ".join(map(str, lengths)), name
    assert not table


def test_the_readme_tells_the_demos_accuracy_per_attribute():
    listed = [row[0] for row in rows(section(README, "The demo checkpoint"))]
    assert set(listed[2:]) == set(ATTRIBUTES)


def section(document: Path, title: str) -> str:
    """What stands under a heading, up to the next one."""
    text = document.read_text("utf-8")
    return re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", text, re.M | re.S)[1]


def rows(text: str) -> list[list[str]]:
    """Cells of the table rows in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_paths_in_the_documents_exist():
    missing = []
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        links = [document.parent / name for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
        files = [ROOT / name for name in re.findall(r"`((?:hart|tests)/[\w/.]+)`", text)]
        missing += [f"{document.name}: {path}" for path in links + files if not path.exists()]
    assert missing == []
    assert {"README.md", "CONTRIBUTING.md", "architecture.md"} <= {file.name for file in DOCUMENTS}


def test_make_has_the_targets_that_the_documents_name():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"`make ([\w-]+)`", document.read_text("utf-8"))
    }
    assert {"test", "test-slow", "test-all"} <= named <= targets


def test_the_architecture_lists_classes_that_are_there():
    listed = rows((ROOT / "docs" / "architecture.md").read_text("utf-8"))[2:]
    names = [(file.strip("`"), re.findall(r"`(\w+)`", classes)) for file, classes in listed]
    for file, classes in names:
        text = (ROOT / file).read_text("utf-8")
        assert [name for name in classes if f"class {name}" not in text] == [], file
    number = sum(len(classes) for _, classes in names)
    assert f"all of its ways, {number}:" in (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_one_version_of_ruff_checks_the_code():
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M)[1]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {pinned}
