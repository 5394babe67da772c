"""A model is built only after its configuration was compared with the headers of its weights.

Building takes time by the number of layers even where nothing is allocated, and whoever reads
"key 'blocks.24.ffn.fc1.weight' is missing" does not learn that ``depth`` is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from hart.utils.errors import CheckpointError, one_line
from hart.utils.fields import CONFIG_FILE

Headers = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Axis:
    """A field that is the size of a weight along an axis."""

    key: str
    axis: int

    def found(self, headers: Headers) -> int | None:
        shape = headers[self.key].shape if self.key in headers else ()
        return shape[self.axis] if self.axis < len(shape) else None

    def reason(self, headers: Headers, _: int) -> str:
        return f"{self.key!r} has shape {tuple(headers[self.key].shape)}"


@dataclass(frozen=True)
class Count:
    """A field that is the number of modules ``<prefix>0``, ``<prefix>1``, ... (or its length)."""

    prefix: str

    def found(self, headers: Headers) -> int:
        names = (key.removeprefix(self.prefix) for key in headers if key.startswith(self.prefix))
        return len({name.partition(".")[0] for name in names})

    def reason(self, headers: Headers, asked: int) -> str:
        found = self.found(headers)
        kind = f"no {self.prefix}{found}" if asked > found else f"a {self.prefix}{asked}"
        return f"there is {kind}."


def build_on_meta(
    model_class: Any, config: PretrainedConfig, headers: Headers, source: str | Path,
    *model_args: Any,
) -> Any:  # fmt: skip
    """A model on the meta device whose configuration fits the headers of its weights.

    What tells a size stands in ``model_class.WEIGHT_SIZES``, by the field's name. Keys and shapes
    are compared by :func:`hart.utils.weights.check_fit` afterwards.

    Raises:
        CheckpointError: a field has another value than the weights, or the fields contradict each
            other.
    """
    origin = _origin(config)
    for name, size in model_class.WEIGHT_SIZES.items():
        value, found = getattr(config, name), size.found(headers)
        number = len(value) if isinstance(value, (list, tuple)) else value
        if found and number is not None and number != found:
            reason = size.reason(headers, number)
            raise CheckpointError(
                f"{origin}: {name} must be {found} for {source}, where {reason}; got {value!r}"
            )
    try:
        with torch.device("meta"):
            return model_class(config, *model_args)
    except CheckpointError:
        raise
    # Fields that are allowed alone may contradict each other; modules answer in many ways.
    except Exception as error:
        raise CheckpointError(f"{origin}: {one_line(error)}") from error


def _origin(config: PretrainedConfig) -> str:
    path = Path(config.name_or_path or "configuration")
    return str(path / CONFIG_FILE if path.is_dir() else path)
