"""The command ``hart`` and its subcommands. Imports nothing before Ctrl-C is taken care of."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # type checkers take it for True
if TYPE_CHECKING:
    from collections.abc import Sequence

    from hart.cli.interrupts import Interrupts


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``hart <command> ...``; the exit code, 2 for a user's mistake and 130 for Ctrl-C.

    Without ``argv`` it reads the process's command line and handles the process's Ctrl-C.
    """
    return _guarded("hart_parser", argv)


def generate_main(argv: Sequence[str] | None = None) -> int:
    """``hart generate`` as a program of its own."""
    return _guarded("generate_parser", argv)


def _guarded(parser: str, argv: Sequence[str] | None) -> int:
    def command(argv: Sequence[str] | None, interrupts: Interrupts) -> int:
        from hart.cli import commands

        return commands.run(getattr(commands, parser)(), argv, interrupts)

    try:
        from hart.cli.interrupts import guarded

        return guarded(command, argv)
    except KeyboardInterrupt:  # in the milliseconds before it is handled
        print("interrupted", file=sys.stderr)
        return 130
