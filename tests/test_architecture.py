"""The house rules that a machine can check; one test each, which lists all that break it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hart"

# A module may import from its own level and from levels with a larger number, never upwards.
LEVELS = {
    "hart.cli": 0,
    "hart.web": 0,
    "hart.server": 0,
    "benchmarks": 0,
    "hart.batch": 1,
    "hart.evaluation": 1,
    "hart.tuning": 1,
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
CACHING_CORE = sorted((PACKAGE / "modules/networks/caching").glob("*.py"))


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def files_with(words: str, files: list[Path]) -> list[str]:
    return [module_name(file) for file in files if words in text_of(file)]


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
    for node in ast.walk(ast.parse(text_of(file))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            prefix = ".".join(base) if node.level else ""
            target = ".".join(part for part in (prefix, node.module or "") if part)
            names += [target, *(f"{target}.{alias.name}" for alias in node.names)]
    return [name for name in names if name == "hart" or name.startswith(("hart.", "benchmarks"))]


def upward_imports(file: Path) -> list[str]:
    own = level(module_name(file))
    if own is None:
        return []  # the packages' own __init__ files and hart/__init__.py, which is lazy
    targets = {name: level(name) for name in imported_modules(file)}
    above = [name for name, target in targets.items() if target is not None and target < own]
    return [f"{module_name(file)} imports {name} from above" for name in above]


def test_imports_go_down_only():
    assert [line for file in FILES for line in upward_imports(file)] == []


def test_the_caching_core_imports_only_itself_and_the_utilities_below_it():
    allowed = ("hart.modules.networks.caching", "hart.utils")
    assert [
        f"{file.name}: {name}"
        for file in CACHING_CORE
        for name in imported_modules(file)
        if not name.startswith(allowed)
    ] == []


def test_the_caching_core_has_no_modules():
    assert files_with("nn.Module", CACHING_CORE) == []


def test_no_device_is_assumed():
    assert files_with(".cuda()", FILES) == []


def test_files_are_a_sitting_long():
    lengths = {module_name(file): len(text_of(file).splitlines()) for file in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}, "still one idea?"
