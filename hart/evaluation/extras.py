"""Packages that only measuring needs."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingExtraError(ValueError):
    """An optional package is not installed; the message says how to install it."""


def import_extra(module: str, purpose: str, extra: str = "evaluation") -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its full name, ``skimage.metrics``.
        purpose: what needs it, the start of the error message.
        extra: the extra of this library that installs it.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"{purpose} needs the package {package}, which is not installed: pip install "
            f'"hart[{extra}]"'
        ) from error
