"""The bundled demo: a small HART of 288-pixel pictures, what it knows, and how it is measured."""

from __future__ import annotations

from pathlib import Path

DEMO_ASSETS = Path(__file__).parent / "assets"
"""Folder of everything that is bundled."""

DEMO_CHECKPOINT = DEMO_ASSETS / "checkpoint"
"""An ordinary checkpoint folder: ``llm``, ``tokenizer``, ``text_model``."""
