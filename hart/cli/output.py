"""Files that a run leaves in its output folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hart.cli.run import Run
from hart.pipeline import ImageResult
from hart.utils.files import make_folder
from hart.utils.images import save_png

RESULTS_FILE = "generation_results.json"


def prepare_output_folder(folder: Path) -> Path:
    """Create the folder and try to write in it, before anything expensive happens.

    Raises:
        ValueError: it cannot be created or written to.
    """
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"output folder {folder} cannot be written: {error.strerror}") from error
    return folder


def save_result(result: ImageResult, run: Run) -> Path:
    """Write one image as ``<index>.png``; the text chunks say how to draw it again.

    It would survive a power failure when this returns.

    Raises:
        OSError: it cannot be written, or the folder has vanished since the run began.
    """
    file = run.folder / f"{result.index:06d}.png"
    return save_png(result.image, file, result.metadata, durable=True)
