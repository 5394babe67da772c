"""Packages whose public names are imported when they are first used (PEP 562).

So that importing a package, or a light module inside it, costs nothing. Such a package lists its
names once more below ``if TYPE_CHECKING``, where type checkers and editors look for them.
"""

import importlib
import sys


def lazy_names(package: str, homes: "dict[str, tuple[str, ...]]"):
    """What such a package's ``__init__`` assigns to ``__getattr__``, ``__dir__`` and ``__all__``.

    Args:
        package: its ``__name__``.
        homes: full name of a module -> the names that the package offers from it.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def get(name: str):
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> "list[str]":
        return sorted({*vars(sys.modules[package]), *home_of})

    return get, names, sorted(home_of)
