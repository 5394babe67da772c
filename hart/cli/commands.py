"""From a command line to the function that does it.

A command's arguments are declared in a module that imports neither torch nor anything else that
takes long; ``run`` in its defaults is the function, or where it is: ``"package.module:function"``,
which is imported once the arguments are understood.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

from hart.cli.arguments import add_generate_arguments
from hart.cli.batch_arguments import add_batch_arguments
from hart.cli.file_commands import add_file_commands
from hart.cli.interrupts import Interrupts
from hart.cli.parser import CommandParser, UsageError
from hart.cli.web import add_web_command
from hart.utils.huge_pages import prefer_huge_pages

USER_ERROR = 2


def hart_parser() -> CommandParser:
    """The parser of ``hart``."""
    parser = CommandParser(prog="hart", description="HART text-to-image with feature caching.")
    commands = parser.add_subparsers(required=True, metavar="command")
    _set_up_generate(commands.add_parser("generate", help="draw images of prompts"))
    batch = commands.add_parser("batch", help="draw a file of prompts; resumes")
    add_batch_arguments(batch)
    batch.set_defaults(run="hart.cli.batch:run_batch")
    add_file_commands(commands)
    add_web_command(commands)
    return parser


def generate_parser() -> CommandParser:
    """The parser of ``enhanced_inference_cli.py``."""
    parser = CommandParser()
    _set_up_generate(parser)
    return parser


def _set_up_generate(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw images of prompts with HART, with or without feature caching."
    add_generate_arguments(parser)
    parser.set_defaults(run="hart.cli.generate:run_generate")


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None, interrupts: Interrupts) -> int:
    """Parse ``argv`` and do what it says; a user's mistake is one line and exit code 2."""
    prefer_huge_pages()
    try:
        args = parser.parse_args(argv)
    except UsageError as error:
        return _complain(error)
    command = _function(args.run)
    interrupts.let_run()
    try:
        with _one_line_warnings():
            return command(args)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        if args.debug or interrupts.seen:
            raise
        return _complain(error)


def _function(place: str | Callable[[argparse.Namespace], int]) -> Callable:
    if callable(place):
        return place
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _complain(error: Exception) -> int:
    print(f"error: {_one_line(error)}", file=sys.stderr)
    return USER_ERROR


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show a warning as its text alone, without the line of code that it came from."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        print(f"warning: {_one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
