"""From a command line to the function that does it.

A command's arguments are declared in a module that imports neither torch nor anything else that
takes long; ``run`` in its defaults is where the function is, ``"package.module:function"``, which
is imported once the arguments are understood.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from hart.cli.arguments import (
    add_batch_arguments,
    add_generate_arguments,
    add_serve_arguments,
    add_web_arguments,
)
from hart.cli.file_commands import add_file_commands
from hart.cli.interrupts import Interrupts
from hart.cli.tune_arguments import add_tune_arguments
from hart.utils.huge_pages import prefer_huge_pages
from hart.utils.names import suggestion
from hart.version import __version__

USER_ERROR = 2

GENERATE = "Draw images of prompts with HART, with or without feature caching."
BATCH = (
    "Draw the prompts of a file into a folder. The same command goes on after an interruption. "
    "Started by torchrun or accelerate launch, several processes share the work."
)
TUNE = (
    "Find what to reuse, to leave out and to draw without guidance for a speed, a likeness or a "
    "memory: measure every option by itself, solve for the budget, refine on real draws and verify "
    "on other prompts. Interrupted, the same command goes on; started by torchrun, several "
    "processes measure together. Exit code 1 if the verified plan misses the target."
)
WEB = (
    "Serve a page on which people draw with presets or settings of their own, compare with "
    "no-cache and calibrate. Ctrl-C stops it. Needs the extra web."
)
SERVE = (
    "Serve images over HTTP as OpenAI's clients ask for them. Ctrl-C or SIGTERM stops it once what "
    "it draws is finished. Needs the extra server."
)


class UsageError(ValueError):
    """A command line that cannot be understood."""


class CommandParser(argparse.ArgumentParser):
    """Raises :class:`UsageError` instead of printing the usage and leaving the process."""

    def __init__(self, **kwargs) -> None:
        # Abbreviations would change their meaning whenever a flag is added.
        super().__init__(allow_abbrev=False, **kwargs)
        self.add_argument("--version", action="version", version=f"hart {__version__}")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As in argparse, but here already what is unknown is an error: the flags are known."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            hint = suggestion(flag, self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return known, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += suggestion(value, map(str, action.choices or ()))
            raise

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; {self.prog} --help lists the arguments")


def hart_parser() -> CommandParser:
    """The parser of ``hart``."""
    parser = CommandParser(prog="hart", description="HART text-to-image with feature caching.")
    parser.set_defaults(run="hart.cli.guide:run_guide", debug=False)
    commands = parser.add_subparsers(metavar="command")
    _set_up_generate(commands.add_parser("generate", help="draw images of prompts"))
    batch = commands.add_parser("batch", help="draw a file of prompts; resumes", description=BATCH)
    add_batch_arguments(batch)
    batch.set_defaults(run="hart.cli.batch:run_batch")
    add_file_commands(commands)
    tune = commands.add_parser("tune", help="find a plan for a budget", description=TUNE)
    add_tune_arguments(tune)
    tune.set_defaults(run="hart.cli.tune:run_tune")
    web = commands.add_parser("web", help="serve a page to draw and calibrate on", description=WEB)
    add_web_arguments(web)
    web.set_defaults(run="hart.cli.web:run_web")
    serve = commands.add_parser("serve", help="serve images over HTTP", description=SERVE)
    add_serve_arguments(serve)
    serve.set_defaults(run="hart.cli.serve:run_serve")
    return parser


def generate_parser() -> CommandParser:
    """The parser of ``enhanced_inference_cli.py``."""
    parser = CommandParser()
    _set_up_generate(parser)
    return parser


def _set_up_generate(parser: argparse.ArgumentParser) -> None:
    parser.description = GENERATE
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


def _function(place: str) -> Callable[[argparse.Namespace], int]:
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
