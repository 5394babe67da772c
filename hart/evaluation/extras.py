"""Packages that only measuring needs."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingExtraError(ValueError):
    """An optional package is not installed; the message says how to install it."""


def import_extra(module: str, purpose: str, extra: str = "evaluation") -> ModuleType:
    """Import a module of an optional package, which ``extra`` of this library installs.

    Raises:
        MissingExtraError: the package is not installed, which ``purpose`` needs.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"{purpose} needs the package {package}, which is not installed: pip install "
            f'"hart[{extra}]"'
        ) from error
