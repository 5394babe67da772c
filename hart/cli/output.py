"""Files that a run leaves in its output folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hart.cli.run import Run
from hart.pipeline import ImageResult
from hart.utils.images import save_png

RESULTS_FILE = "generation_results.json"


def prepare_output_folder(folder: Path) -> Path:
    """Create the folder and try to write in it, before anything expensive happens.

    Raises:
        ValueError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"output folder {folder} cannot be written: {error.strerror}") from error
    return folder


def save_result(result: ImageResult, run: Run, durable: bool = False) -> Path:
    """Write one image as ``<index>.png``; the text chunks say how to draw it again.

    Returns only when it would survive a power failure, if it is to be ``durable``.
    """
    return save_png(result.image, run.folder / f"{result.index:06d}.png", result.metadata, durable)
