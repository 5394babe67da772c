"""The house rules that a machine can check: the direction of imports, and nothing at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hart"

# A module may import from its own level and from levels with a larger number, never upwards.
LEVELS = {
    "hart.cli": 0,
    "hart.web": 0,
    "benchmarks": 0,
    "hart.batch": 1,
    "hart.evaluation": 1,
    "hart.demo": 2,
    "hart.pipeline": 2,
    "hart.engine": 3,
    "hart.modules.models.transformer": 4,
    "hart.modules.models.autoencoder": 5,
    "hart.modules.losses": 6,
    "hart.modules.diffusion": 6,
    "hart.modules.networks": 7,
    "hart.modules.networks.caching": 8,
    "hart.utils": 9,
}
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level(module: str) -> int | None:
    matches = [name for name in LEVELS if module == name or module.startswith(name + ".")]
    return LEVELS[max(matches, key=len)] if matches else None


def imported_modules(file: Path) -> list[str]:
    package = (
        module_name(file) if file.name == "__init__.py" else module_name(file).rpartition(".")[0]
    )
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            prefix = ".".join(base) if node.level else ""
            target = ".".join(part for part in (prefix, node.module or "") if part)
            names += [target, *(f"{target}.{alias.name}" for alias in node.names)]
    return [name for name in names if name == "hart" or name.startswith(("hart.", "benchmarks"))]


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_go_down_only(file):
    own = level(module_name(file))
    if own is None:
        return  # the packages' own __init__ files and hart/__init__.py, which is lazy
    for name in imported_modules(file):
        target = level(name)
        if target is not None:
            assert target >= own, f"{module_name(file)} imports {name} from above"


def test_the_caching_core_imports_only_itself_and_the_utilities_below_it():
    for file in (PACKAGE / "modules/networks/caching").glob("*.py"):
        for name in imported_modules(file):
            allowed = ("hart.modules.networks.caching", "hart.utils")
            assert name.startswith(allowed), f"{file.name}: {name}"


def test_the_caching_core_has_no_modules():
    for file in (PACKAGE / "modules/networks/caching").glob("*.py"):
        assert "nn.Module" not in file.read_text(encoding="utf-8"), file.name


def test_no_device_is_assumed():
    for file in FILES:
        assert ".cuda()" not in file.read_text(encoding="utf-8"), file


def test_importing_does_nothing():
    """No output, no file, no optional package, no CUDA context; and ``import hart`` is light."""
    code = (
        "import sys, os; before = set(os.listdir('.')); import hart; "
        "assert 'torch' not in sys.modules, 'import hart must not import torch'; "
        "import hart.modules.models.transformer.hart_transformer_t2i_enhanced, torch; "
        "assert set(os.listdir('.')) == before; "
        "assert not torch.cuda.is_initialized(); "
        "assert not {'matplotlib', 'gradio'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_files_are_a_sitting_long(file):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{file.name} has {lines} lines: is it still one idea?"
