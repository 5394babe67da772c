"""``import hart``: its version, and names that it does not have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hart

ROOT = Path(__file__).parents[2]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'VAR'"):
        _ = hart.VAR


def test_the_version_is_the_packages():
    text = (ROOT / "pyproject.toml").read_text()
    declared = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert declared is None or declared.group(1) == hart.__version__
