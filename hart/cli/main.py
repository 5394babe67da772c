"""The command ``hart`` and its subcommands. Imports nothing before Ctrl-C is taken care of."""

from __future__ import annotations

from hart.cli.interrupts import Interrupts, guarded

TYPE_CHECKING = False  # type checkers take it for True
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``hart <command> ...``; the exit code, 2 for a user's mistake and 130 for Ctrl-C.

    Without ``argv`` it reads the process's command line and handles the process's Ctrl-C.
    """
    return guarded(_hart, argv)


def generate_main(argv: Sequence[str] | None = None) -> int:
    """``hart generate`` as a program of its own."""
    return guarded(_generate, argv)


def _hart(argv: Sequence[str] | None, interrupts: Interrupts) -> int:
    from hart.cli.commands import hart_parser, run

    return run(hart_parser(), argv, interrupts)


def _generate(argv: Sequence[str] | None, interrupts: Interrupts) -> int:
    from hart.cli.commands import generate_parser, run

    return run(generate_parser(), argv, interrupts)
