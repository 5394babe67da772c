"""The documents, what is in them, and somebody who does what they say."""

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
from pathlib import Path

import pytest

from hart.cli.commands import hart_parser
from hart.cli.main import generate_main, main
from hart.demo.evaluate import main as evaluate

ROOT = Path(__file__).parent.parent
README, MANUAL = ROOT / "README.md", ROOT / "README_VAR_STYLE_CACHING.md"
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "integrations").rglob("*.md"),
]

RUN, READ, SHOWN = ("bash", "python"), "console", ("text", "nginx")
"""Languages of blocks that are run, that are only read, and that are no commands."""
_ONLY_READ = re.compile(r"\*The tests only read (?:this one|these): (?:it|they) needs? (.*)\.\*")

# Words of the documents -> what stands there on a reader's machine.
PLACES = {
    "/path/to/hart-0.7b-1024px/llm": "checkpoint/llm",
    "/path/to/Qwen2-VL-1.5B-Instruct": "checkpoint/text_model",
    "/path/to/hart/llm": "checkpoint/llm",
    "/path/to/text/encoder": "checkpoint/text_model",
    "/path/to/var": "var",
}
# Installing these is left out: what an extra brings cannot be had without a network.
EXTRAS = ([".[distributed]"],)
# Flag -> the value that shortens it.
SHORTER = {"--demo_prompts": "1", "--random-weights": "tiny"}
# Of a tiny model speed means nothing.
UNTIMED = {"--target-speedup": ("--target-saved", "0.3")}
# The same, also where the flag is not given, by what is done.
SHORTER_RUNS = {"--benchmark_runs": "1", "--benchmark_warmup": "0"}
SHORTER_TUNING = {"--minutes": "0", "--refine": "1", "--held_out": "1"}


def section(document: Path, title: str) -> str:
    """What stands under a heading, up to the next one."""
    text = document.read_text("utf-8")
    return re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", text, re.M | re.S)[1]


def rows(text: str) -> list[list[str]]:
    """Cells of the table rows in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def blocks(document: Path) -> list[tuple[str, str, str]]:
    """Line before it, language and content of every block between fences."""
    text = "\n" + document.read_text("utf-8")
    found = re.findall(r"([^\n]*)\n+```(\w*)\n(.*?)^```$", text, re.M | re.S)
    assert 2 * len(found) == len(re.findall(r"^```", text, re.M)), document
    return found


def reason(before: str) -> str | None:
    """What a block needs that the tests lack, as the line before it says; None if it does not."""
    said = _ONLY_READ.fullmatch(before)
    return said and said[1]


def commands(block: str) -> list[str]:
    """The command lines of a block, without comments and line ends that continue."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def shortened(words: list[str]) -> list[str]:
    words = list(words)
    for flag, instead in UNTIMED.items():
        if flag in words:
            at = words.index(flag)
            words[at : at + 2] = instead
    added = {}
    if "--benchmark" in words or "--compare_configs" in words:
        added = SHORTER_RUNS
    if words[-1] == "--compare_configs":
        added = {"--demo_prompts": "1", **added}
    if words[0] == "tune":
        added = {flag: value for flag, value in SHORTER_TUNING.items() if flag not in words}
    for flag, value in {**SHORTER, **added}.items():
        if flag in words:
            words[words.index(flag) + 1] = value
        elif flag in added:
            words += [flag, value]
    return words


def understood(command: str) -> bool:
    """Whether a command that is only read is one of the library that parses, or none of it."""
    words = shlex.split(command, comments=True)
    if "hart" in words[1:] and words[words.index("hart") - 1] == "-m":
        words = words[words.index("hart") :]
    if words[0] == "hart":
        hart_parser().parse_args(words[1:])
    elif words[:2] == ["python", "-m"]:
        return importlib.util.find_spec(words[2]) is not None
    elif words[0] == "python":
        return (ROOT / words[1]).is_file()
    return True


class Reader:
    """Does what a README says, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict = {}
        self.ran: list[str] = []

    def follow(self, document: Path) -> None:
        for _, language, content in blocks(document):
            if language not in RUN:
                continue
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
            # 1: a tiny model's plan need not hold on pictures that it was not found with.
            allowed = (0, 1) if words[1] == "tune" else (0,)
            assert main(shortened(words[1:])) in allowed, command
        elif words[:2] == ["python", "enhanced_inference_cli.py"]:
            assert generate_main(shortened(words[2:])) == 0, command
        elif words[0] == "make":
            self.make(*words[1:])
        elif words[:2] == ["pip", "install"] and words[2:] in EXTRAS:
            pass
        elif words[:2] == ["pip", "install"] and words[2].startswith("."):
            self.install()
        elif words[:3] == ["python", "-m", "hart.demo.evaluate"]:
            assert evaluate([*words[3:], "--n", "1", "--quiet"]) == 0, command
        elif "-m" in words and words[0] in ("torchrun", "accelerate"):
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
        at = words.index("-m")
        assert words[at + 1] == "hart"
        assert main(words[at + 2 :]) == 0, words

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
        for stamp in (".drawing", ".installed"):  # in the order in which make wants them
            (venv / stamp).touch()
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
