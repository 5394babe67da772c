"""Copies of models and pipelines, several times as quick as building them or ``copy.deepcopy``."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Callable

import torch


class Original:
    """What is copied: pickled, but for its tensors and generators, which are copied as such.

    Args:
        value: its tensors are kept and must stay as they are; all else may change.
    """

    def __init__(self, value: object) -> None:
        file = io.BytesIO()
        pickler = _Structure(file)
        pickler.dump(value)
        self._structure, self._parts = file.getvalue(), list(pickler.parts.values())

    def copy(self):
        """A value of the caller's own."""
        return _Filled(io.BytesIO(self._structure), copy.deepcopy(self._parts)).load()


class _Structure(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.parts: dict[int, object] = {}
        self._numbers: dict[int, int] = {}

    def persistent_id(self, value: object) -> int | None:
        if not isinstance(value, torch.Tensor | torch.Generator):
            return None
        self.parts.setdefault(id(value), value)
        return self._numbers.setdefault(id(value), len(self._numbers))


class _Filled(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, parts: list) -> None:
        super().__init__(file)
        self._parts = parts

    def persistent_load(self, number: int):
        return self._parts[number]


def copied(build: Callable) -> Callable:
    """Build once per arguments and copy from then on.

    The state of torch's global generator afterwards is that after building.
    """

    @functools.cache
    def built(*args, **options) -> tuple[Original, torch.Tensor]:
        with torch.inference_mode(False):
            return Original(build(*args, **options)), torch.get_rng_state()

    @functools.wraps(build)
    def copy_of(*args, **options):
        original, state = built(*args, **options)
        torch.set_rng_state(state)
        return original.copy()

    return copy_of
