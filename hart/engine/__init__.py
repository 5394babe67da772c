"""Fast execution of a model that stays as it is; nothing in ``hart.modules`` imports this."""

from hart.engine.engine import Engine, decode

__all__ = ["Engine", "decode"]
