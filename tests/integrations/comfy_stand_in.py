"""A stand-in for what the nodes use of ComfyUI: names and arguments as in its V3 interface."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[2] / "integrations" / "comfyui"

_INPUT = {"id", "display_name", "optional", "tooltip", "lazy", "extra_dict", "raw_link", "advanced"}
_WIDGET = {*_INPUT, "default", "socketless", "force_input"}
_NUMBER = {*_WIDGET, "min", "max", "step", "display_mode"}
_ARGUMENTS = {
    "STRING": {*_WIDGET, "multiline", "placeholder", "dynamic_prompts"},
    "INT": {*_NUMBER, "control_after_generate"},
    "FLOAT": {*_NUMBER, "round"},
    "COMBO": {*_WIDGET, "options", "control_after_generate"},
}
_SCHEMA = {"node_id", "display_name", "category", "description", "inputs", "outputs"}


class InterruptedByComfyError(Exception):
    pass


def _type(name: str) -> Any:
    """A type of values, with its inputs and outputs."""

    def make_input(id: str, **arguments: Any) -> SimpleNamespace:
        assert set(arguments) <= _ARGUMENTS.get(name, _INPUT), (name, arguments)
        return SimpleNamespace(id=id, type=name, **arguments)

    def make_output(display_name: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(type=name, display_name=display_name or name)

    return SimpleNamespace(Input=make_input, Output=make_output)


def _schema(**arguments: Any) -> SimpleNamespace:
    assert set(arguments) <= _SCHEMA
    return SimpleNamespace(**arguments)


class Comfy:
    """ComfyUI's modules, put in place.

    Attributes:
        models_dir: its models.
        done, total: of the last progress bar.
        interrupt_at: the progress at which somebody presses the button.
    """

    def __init__(self, models_dir: Path, patch: pytest.MonkeyPatch) -> None:
        self.models_dir = models_dir
        self.done, self.total = 0, 0
        self.interrupt_at: int | None = None
        self._folders: dict[str, list[str]] = {}
        kinds = {"Int": "INT", "Float": "FLOAT", "String": "STRING", "Combo": "COMBO"}
        io = SimpleNamespace(
            **{name: _type(kind) for name, kind in kinds.items()},
            Image=_type("IMAGE"),
            Custom=_type,
            Schema=_schema,
            ComfyNode=type("ComfyNode", (), {}),
            NodeOutput=lambda *values: values,
        )
        extension = type("ComfyExtension", (), {})
        self._put(patch, "comfy_api")
        self._put(patch, "comfy_api.latest", io=io, ComfyExtension=extension)
        self._put(patch, "comfy")
        self._put(patch, "comfy.utils", ProgressBar=self._progress_bar)
        self._put(
            patch,
            "comfy.model_management",
            get_torch_device=lambda: "cpu",
            throw_exception_if_processing_interrupted=self._throw,
        )
        self._put(
            patch,
            "folder_paths",
            models_dir=str(models_dir),
            add_model_folder_path=self._add_folder,
            get_folder_paths=self._folders.__getitem__,
        )

    def _put(self, patch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
        module = ModuleType(name)
        vars(module).update(content)
        patch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)

    def _add_folder(self, name: str, path: str) -> None:
        paths = self._folders.setdefault(name, [])
        if path not in paths:
            paths.append(path)

    def _progress_bar(self, total: int) -> SimpleNamespace:
        self.done, self.total = 0, total
        return SimpleNamespace(update=self._update)

    def _update(self, value: int) -> None:
        self.done += value

    def _throw(self) -> None:
        if self.done == self.interrupt_at:
            raise InterruptedByComfyError


def import_nodes(patch: pytest.MonkeyPatch) -> ModuleType:
    """Import the package as ComfyUI does: from its folder, under a name of ComfyUI's."""
    name = "custom_nodes_hart"
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        patch.delitem(sys.modules, each)
    where = [str(PACKAGE)]
    spec = importlib.util.spec_from_file_location(
        name, PACKAGE / "__init__.py", submodule_search_locations=where
    )
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module
