"""How a command ends when it is not let finish: Ctrl-C, or a reader of its output that went away.

Imported and in force before anything else, so this module imports next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

TYPE_CHECKING = False  # type checkers take it for True
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as a shell has it."""

READER_GONE = 141
"""Exit code when nobody reads the output any more: 128 + SIGPIPE."""


class Interrupts:
    """What Ctrl-C does to this process.

    While modules are imported it ends the process at once: an exception in the middle of an
    extension module's initialisation is not always passed on. The same when all is done. In between
    it raises ``KeyboardInterrupt``, so that a run can keep what is finished.

    Attributes:
        seen: whether there was one.
    """

    def __init__(self) -> None:
        self.seen = False
        self._at_once = True
        self._said = False

    def take_over(self) -> None:
        """Handle SIGINT from now on, unless somebody else does or it is ignored."""
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return
        with contextlib.suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGINT, self._handle)

    def let_run(self) -> None:
        """From now on raise ``KeyboardInterrupt``."""
        self._at_once = False

    def finish(self) -> None:
        """From now on end the process at once."""
        self._at_once = True

    def say(self) -> None:
        """Tell the user, once."""
        if not self._said:
            self._said = True
            print("interrupted", file=sys.stderr)

    def _handle(self, signum: int, frame: object) -> None:
        self.seen = True
        if not self._at_once:
            raise KeyboardInterrupt
        self.say()
        os._exit(INTERRUPTED)


def guarded(
    command: Callable[[Sequence[str] | None, Interrupts], int], argv: Sequence[str] | None
) -> int:
    """Run a command; its exit code, :data:`INTERRUPTED` with one line, or :data:`READER_GONE`.

    Args:
        command: takes ``argv``, and calls :meth:`Interrupts.let_run` once everything is imported.
        argv: None means the process's command line; the process is the command's then, and so is
            its Ctrl-C.
    """
    interrupts = Interrupts()
    if argv is None:
        interrupts.take_over()
    try:
        try:
            code = command(argv, interrupts)
        finally:
            interrupts.finish()
            _flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        code = INTERRUPTED if interrupts.seen else READER_GONE
    except Exception:
        if not interrupts.seen:  # else somebody made another exception of it
            raise
        code = INTERRUPTED
    if code == INTERRUPTED:
        interrupts.say()
    return code


def _flush() -> None:
    """Write now what would else be written, and could fail, after the last line of Python."""
    if sys.stdout is not None:  # it is None where it was closed before the start
        sys.stdout.flush()


def _discard_output() -> None:
    """Let nothing complain about the closed pipe when the interpreter flushes its streams."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
