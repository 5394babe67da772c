"""The folders of the page's requests: who may fetch what from them, and when they go."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PREVIEW_PREFIX = "preview-"
"""Of pictures that are only shown while a request is drawn."""

SWEEP_S = 60.0

_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Keep:
    """How many finished requests stay on the disk, and for how many hours."""

    requests: int = 100
    hours: float = 24.0


KEEP = Keep()
"""Unless somebody says otherwise."""


class Results:
    """The output folder of a page: a folder for each request, named by the time and a random part.

    Only such folders are ever removed, those of earlier runs of the page included; whatever else
    lies in the output folder stays.

    Args:
        root: the output folder.
        keep: see :class:`Keep`.
    """

    def __init__(self, root: Path, keep: Keep) -> None:
        self.root, self._keep = root, keep
        self._lock = threading.Lock()
        self._open: set[Path] = set()
        self._known: set[Path] = set()

    @contextlib.contextmanager
    def request(self) -> Iterator[Path]:
        """A new folder, in which the request's files may be fetched from now on.

        At the end previews go, the folder too if nothing is in it, and older requests if there are
        too many.

        Raises:
            OSError: it cannot be made.
        """
        folder = self.root / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        with self._lock:
            self._open.add(folder)
            self._known.add(folder)
        try:
            yield folder
        finally:
            for preview in folder.glob(f"{PREVIEW_PREFIX}*"):
                preview.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # which fails if there is something in it
            with self._lock:
                self._open.discard(folder)
            self.sweep()

    def serves(self, path: str) -> bool:
        """Whether the page wrote this very file during this run and still has it."""
        file = Path(path)
        with self._lock:
            if file.parent not in self._known:
                return False
        hidden = file.name.startswith(".")  # a file that is being written
        return str(file) == path and not hidden and not file.is_symlink() and file.is_file()

    def sweep(self) -> None:
        """Remove finished requests beyond the limits."""
        with self._lock:
            finished = [folder for folder in self._folders() if folder not in self._open]
            oldest = time.time() - self._keep.hours * 3600
            for place, folder in enumerate(finished):
                if place >= self._keep.requests or _finished_at(folder) < oldest:
                    shutil.rmtree(folder, ignore_errors=True)
            self._known = {folder for folder in self._known if folder.exists()}

    def _folders(self) -> list[Path]:
        """The requests' folders, the newest first."""
        if not self.root.is_dir():
            return []
        named = (path for path in self.root.iterdir() if _NAME.fullmatch(path.name))
        found = (path for path in named if path.is_dir() and not path.is_symlink())
        return sorted(found, key=_finished_at, reverse=True)


def _finished_at(folder: Path) -> float:
    """When something was last written to or removed from a folder; 0 if it is gone."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


@contextlib.contextmanager
def swept(results: Results) -> Iterator[None]:
    """Inside, requests go when they are old enough, even if nobody comes any more."""
    ended = threading.Event()

    def sweep() -> None:
        while not ended.wait(SWEEP_S):
            results.sweep()

    results.sweep()
    thread = threading.Thread(target=sweep, name="hart-web-sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
