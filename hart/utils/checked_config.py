"""Configurations whose fields hold what their tables allow, and reading them from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from transformers import PretrainedConfig

from hart.utils.errors import CheckpointError, one_line, shown
from hart.utils.fields import (
    CONFIG_FILE,
    GENERAL_FIELDS,
    Field,
    check_field,
    check_fields,
)
from hart.utils.json_files import read_json_object


class CheckedConfig(PretrainedConfig):
    """A configuration that refuses what its ``FIELDS`` do not allow, whenever one is set.

    Fields that are in no table are stored, as in every ``PretrainedConfig``, unless they would
    take the place of a method.
    """

    FIELDS: ClassVar[Mapping[str, Field]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        fields = type(self).FIELDS
        if name in fields:
            check_field(name, value, fields[name])
        elif name == "FIELDS" or name.startswith("__") or callable(getattr(type(self), name, None)):
            raise ValueError(f"{name[:80]!r} is not the name of a field")
        super().__setattr__(name, value)


Config = TypeVar("Config", bound=PretrainedConfig)


def read_config(folder: Path, *classes: type[Config]) -> Config:
    """The configuration in a folder's ``config.json``, every field checked.

    Args:
        classes: what it may be; its ``model_type`` decides.

    Raises:
        CheckpointError: no such folder or file, not strict JSON, of another model, or a field has
            a value that is not allowed; the message names file, field and value.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG_FILE} in this folder")
    content = read_json_object(file)
    by_type = {config_class.model_type: config_class for config_class in classes}
    found = content.get("model_type")
    if not isinstance(found, str) or found not in by_type:
        expected = " or ".join(map(repr, by_type))
        raise CheckpointError(f"{file}: model_type is {shown(found, 80)}, expected {expected}")
    check_fields(file, content, GENERAL_FIELDS)
    try:
        config = by_type[found].from_dict(content)
    # The base class answers other values of its own fields with almost any exception.
    except Exception as error:
        raise CheckpointError(f"{file}: {one_line(error)}") from error
    config.name_or_path = str(folder)
    return config
