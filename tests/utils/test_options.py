"""Everything about an option follows from its one field."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pytest

from hart.modules.networks.caching.validation import FLAG, SHARE, STAGES
from hart.utils.options import add_options, check_options, document_options, option, options_of


@document_options
@dataclass(frozen=True)
class Drinks:
    """What there is.

    Args:
        <options>
    """

    sizes: tuple[int, ...] | None = option(None, STAGES, "sizes of cups", "--cup-sizes")
    full: float = option(0.5, SHARE, "how full they are", "--full", "-f")
    warm: bool = option(True, FLAG, "whether they steam", "--warm", "--cold")
    secret: float = option(0.1, SHARE, "not for everybody")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Punch(Drinks):
    full: float = 0.9


def parse(kind: type, *flags: str, unset: bool = False) -> dict:
    parser = argparse.ArgumentParser()
    add_options(parser, options_of(kind).values(), unset)
    return vars(parser.parse_args(flags))


def test_flags_names_and_defaults():
    assert parse(Drinks) == {"cup_sizes": None, "full": 0.5, "warm": True}
    assert parse(Punch)["full"] == 0.9
    assert set(parse(Drinks, unset=True).values()) == {None}
    given = parse(Drinks, "--cup-sizes", "4", "1", "-f", "0.25", "--cold")
    assert given == {"cup_sizes": [4, 1], "full": 0.25, "warm": False}
    assert parse(Drinks, "--cold", "--warm")["warm"] is True


def test_values_are_checked_and_kept_in_their_form():
    assert (Drinks([9, 4]).sizes, Punch().full, Drinks(full=1).full) == ((4, 9), 0.9, 1.0)
    with pytest.raises(ValueError, match=r"full must be within \[0, 1\], got 2"):
        Punch(full=2)
    with pytest.raises(TypeError, match="warm must be True or False, got 'yes'"):
        Drinks(warm="yes")


def test_the_docstring_and_the_help_say_what_they_are(capsys):
    assert "        full: how full they are (a number from 0 to 1; default 0.5)." in Drinks.__doc__
    with pytest.raises(SystemExit):
        parse(Drinks, "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "[--warm | --cold]" in shown
    assert "how full they are (a number from 0 to 1; default 0.5)" in shown
    assert "not for everybody" not in shown
