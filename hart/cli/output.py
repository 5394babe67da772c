"""Files that a run leaves in its output folder.

``hart generate`` overwrites nothing there: pictures take the numbers after those that are there,
and a report of an earlier run gets a number before a new one takes its name.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from pathlib import Path

from hart.cli.run import Run
from hart.pipeline import ImageResult
from hart.utils.files import PART_SUFFIX, make_folder
from hart.utils.images import save_png

RESULTS_FILE = "generation_results.json"
_PICTURE = re.compile(r"(\d{6,})\.png")


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


def save_numbered(result: ImageResult, run: Run) -> Path:
    """As :func:`save_result`, but under the number after the highest one in the folder."""
    beside = run.folder / f".{uuid.uuid4().hex}{PART_SUFFIX}"
    try:
        return _take_number(
            save_png(result.image, beside, result.metadata, durable=True), run.folder
        )
    finally:
        beside.unlink(missing_ok=True)


def _take_number(file: Path, folder: Path) -> Path:
    """Give ``file`` the next number; replaces nothing, whatever other processes do meanwhile."""
    taken = [int(match[1]) for name in os.listdir(folder) if (match := _PICTURE.fullmatch(name))]
    number = max(taken, default=-1) + 1
    while True:
        path = folder / f"{number:06d}.png"
        try:
            os.link(file, path)  # unlike renaming it fails where the name is taken
            return path
        except FileExistsError:
            number += 1
        except OSError:  # a file system without links
            if not path.exists():
                return file.rename(path)
            number += 1


def keep_earlier(folder: Path, *names: str) -> None:
    """Rename the reports of an earlier run, so that a run can write its own under these names.

    ``report.json`` becomes ``report_1.json``, the next one ``report_2.json``. All ``names`` are of
    one run and get one number.
    """
    earlier = [folder / name for name in names if os.path.lexists(folder / name)]
    if not earlier:
        return
    pairs = [map(re.escape, (Path(name).stem, Path(name).suffix)) for name in names]
    numbered = re.compile("|".join(rf"{stem}_\d+{suffix}" for stem, suffix in pairs))
    taken = [
        int(Path(entry).stem.rpartition("_")[2])
        for entry in os.listdir(folder)
        if numbered.fullmatch(entry)
    ]
    number = max(taken, default=0) + 1
    for path in earlier:
        path.rename(path.with_stem(f"{path.stem}_{number}"))
