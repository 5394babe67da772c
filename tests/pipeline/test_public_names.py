"""``import hart`` offers the documented names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hart

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", hart.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(hart, name) is not None
    assert name in dir(hart)


def test_the_short_names_are_the_classes_of_the_documented_paths():
    from hart.modules.models.transformer.configuration import HARTForT2IConfig
    from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
    from hart.modules.networks.basic_hart_enhanced import CacheConfig

    assert hart.HARTForT2IConfig is HARTForT2IConfig
    assert hart.HARTForT2IEnhanced is HARTForT2IEnhanced
    assert hart.CacheConfig is CacheConfig


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'VAR'"):
        _ = hart.VAR


def test_the_version_is_the_packages():
    text = (ROOT / "pyproject.toml").read_text()
    declared = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert declared is None or declared.group(1) == hart.__version__
