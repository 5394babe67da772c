"""Files that a run leaves in its output folder.

``hart generate`` overwrites nothing there: pictures take the numbers after those that are there,
and a report of an earlier run gets a number before a new one takes its name.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from hart.cli.naming import stem
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
    """As :func:`save_result`, but under a name that is free.

    That is the number after the highest one in the folder, or what ``--name_template`` says.
    """
    template = run.args.name_template
    beside = run.folder / f".{uuid.uuid4().hex}{PART_SUFFIX}"
    try:
        file = save_png(result.image, beside, result.metadata, durable=True)
        if template is None:
            return _take_name(file, _next_numbers(run.folder))
        own = stem(template, result.index, result.prompt, result.seed)
        return _take_name(file, (f"{own}_{n}" if n else own for n in itertools.count()))
    finally:
        beside.unlink(missing_ok=True)


def _next_numbers(folder: Path) -> Iterator[str]:
    taken = [int(match[1]) for name in os.listdir(folder) if (match := _PICTURE.fullmatch(name))]
    return (f"{number:06d}" for number in itertools.count(max(taken, default=-1) + 1))


def _take_name(file: Path, names: Iterator[str]) -> Path:
    """Give ``file`` the first free name; replaces nothing, whatever others do meanwhile."""
    for name in names:
        path = file.with_name(f"{name}.png")
        try:
            os.link(file, path)  # unlike renaming it fails where the name is taken
            return path
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if not path.exists():
                return file.rename(path)
    raise AssertionError("there is always another name")


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
