"""The command ``hart`` and its subcommands."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence

from hart.cli.parser import CommandParser, UsageError
from hart.utils.huge_pages import prefer_huge_pages

USER_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``hart <command> ...``; the exit code, 2 for a user's mistake and 130 for Ctrl-C."""
    prefer_huge_pages()
    parser = CommandParser(prog="hart", description="HART text-to-image with feature caching.")
    commands = parser.add_subparsers(required=True, metavar="command")
    _set_up_generate(commands.add_parser("generate", help="draw images of prompts"))
    _set_up_batch(commands.add_parser("batch", help="draw a file of prompts; resumes"))
    _add_file_commands(commands)
    _add_web_command(commands)
    return _run(parser, argv)


def generate_main(argv: Sequence[str] | None = None) -> int:
    """``hart generate`` as a program of its own."""
    prefer_huge_pages()
    parser = CommandParser()
    _set_up_generate(parser)
    return _run(parser, argv)


def _set_up_generate(parser: argparse.ArgumentParser) -> None:
    from hart.cli.arguments import add_generate_arguments  # imports torch, so not at the top
    from hart.cli.generate import run_generate

    parser.description = "Draw images of prompts with HART, with or without feature caching."
    add_generate_arguments(parser)
    parser.set_defaults(run=run_generate)


def _set_up_batch(parser: argparse.ArgumentParser) -> None:
    from hart.cli.batch import run_batch
    from hart.cli.batch_arguments import add_batch_arguments

    add_batch_arguments(parser)
    parser.set_defaults(run=run_batch)


def _add_file_commands(commands: argparse._SubParsersAction) -> None:
    from hart.cli.plots import add_plot_commands
    from hart.cli.similarity_files import add_similarity_commands

    add_similarity_commands(commands)
    add_plot_commands(commands)


def _add_web_command(commands: argparse._SubParsersAction) -> None:
    from hart.cli.web import add_web_command

    add_web_command(commands)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    try:
        args = parser.parse_args(argv)
    except UsageError as error:
        return _complain(error)
    try:
        with _one_line_warnings():
            return args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        if args.debug:
            raise
        return _complain(error)


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
