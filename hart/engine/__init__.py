"""Fast execution of a model that stays as it is; nothing in ``hart.modules`` imports this."""

from hart.engine.decoding import EngineDecoder
from hart.engine.engine import Engine

__all__ = ["Engine", "EngineDecoder"]
