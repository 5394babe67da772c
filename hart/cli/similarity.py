"""Where a run's similarity table comes from: a file that is given, one beside the model, or now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart.batch.calibration import calibrate_together
from hart.batch.folder import BatchFolder
from hart.batch.jobs import Job
from hart.batch.processes import Processes
from hart.cli.run import Run
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity_io import (
    SIMILARITY_FILE,
    SimilarityFileError,
    StoredSimilarity,
    check_destination,
    read_similarity,
)
from hart.modules.networks.caching.stages import format_stages

MAX_CALIBRATION_PROMPTS = 8


@dataclass
class SimilaritySource:
    """What a run's table is.

    Attributes:
        origin: ``"none"``, ``"file"``, ``"calibration"`` or ``"given"`` (set on the model).
        path: the file it was read from or is saved to.
        images: number of images that it averages over, 0 if unknown.
        continued: those of them that a calibration found in the file.
    """

    origin: str
    path: Path | None = None
    images: int = 0
    continued: int = 0


def prepare_similarity(run: Run) -> SimilaritySource:
    """Give the model a table before it generates, if its configuration needs one.

    Raises:
        OSError: ``--sim-path`` cannot be read, or written if it is a calibration's.
        ValueError: the file is damaged or belongs to another model.
    """
    pipeline, model = run.pipeline, run.pipeline.model
    if model.calibration:
        return start_calibration(run)
    if not (model.use_cache and model.cache_config.caches_anything):
        return SimilaritySource("none")
    if run.args.sim_path:
        pipeline.load_similarity(run.args.sim_path)
    elif pipeline.similarity_path is None:
        if not model.similarity.is_empty:
            return SimilaritySource("given", None, model.similarity.images)
        return _calibrate_first(run)
    return SimilaritySource("file", pipeline.similarity_path, model.similarity.images)


def prepare_batch_similarity(
    run: Run, jobs: Sequence[Job], processes: Processes
) -> SimilaritySource:
    """As :func:`prepare_similarity`, for any job: one table for all processes and resumed runs."""
    pipeline, model = run.pipeline, run.pipeline.model
    if model.calibration:
        return start_calibration(run)
    presets = {job.cache_preset for job in jobs}
    configs = [
        model.cache_config if name is None else preset_config(name, model.patch_nums)
        for name in presets
    ]
    if not (model.use_cache and any(config.caches_anything for config in configs)):
        return SimilaritySource("none")
    own = run.folder / SIMILARITY_FILE  # of an earlier run that could not write beside the model
    if run.args.sim_path:
        pipeline.load_similarity(run.args.sim_path)
    elif pipeline.similarity_path is None and processes.from_main(own.is_file()):
        pipeline.load_similarity(own)
    if pipeline.similarity_path is not None:
        return SimilaritySource("file", pipeline.similarity_path, model.similarity.images)
    return _calibrate_together(run, processes)


def _calibrate_first(run: Run) -> SimilaritySource:
    """Measure a table on some of the run's prompts and save it once it is complete."""
    source = SimilaritySource("calibration", calibration_file(run))
    run.pipeline.model.clear_similarity_data()
    options = {**run.options.to_dict(), "num_images_per_prompt": 1}
    run.pipeline.calibrate(_first_prompts(run), quiet=run.args.quiet, **options)
    keep_calibration(run, source)
    say_calibration(run, source)
    return source


def _calibrate_together(run: Run, processes: Processes) -> SimilaritySource:
    """As :func:`_calibrate_first`, on several processes; the main one saves the table."""
    calibrate_together(run.pipeline, _first_prompts(run), run.options, processes, run.args.quiet)
    source = SimilaritySource("calibration", images=run.pipeline.model.similarity.images)
    if processes.is_main:
        BatchFolder(run.folder).require()  # saving a table would make the folder anew
        source.path = calibration_file(run)
        keep_calibration(run, source)
        say_calibration(run, source)
    processes.wait()
    return source


def _first_prompts(run: Run) -> list[Any]:
    prompts, draws = run.prompts[:MAX_CALIBRATION_PROMPTS], run.pipeline.draws
    run.say(f"no similarity table for this checkpoint: calibrating on {len(prompts)} {draws} first")
    return prompts


def start_calibration(run: Run) -> SimilaritySource:
    """Begin a calibration, or continue that of the file that it will write.

    Raises:
        ValueError: the file is there but cannot be continued; it is left as it is.
        OSError: it cannot be read or written.
    """
    path = calibration_file(run)
    run.pipeline.model.clear_similarity_data()
    if path.exists():
        model = run.pipeline.model
        stored = read_similarity(path, model.schedule, model.depth)
        _require_same_origin(run, path, stored)
        model.similarity = stored.tables
    images = run.pipeline.model.similarity.images
    return SimilaritySource("calibration", path, images, continued=images)


def _require_same_origin(run: Run, path: Path, stored: StoredSimilarity) -> None:
    """Refuse to add this model's measurements to a table that is not known to be its own."""
    model = run.pipeline.model
    reason = None
    if stored.schedule != model.schedule:
        reason = (
            f"its stages are {format_stages(stored.schedule.lengths)}, "
            f"this model's are {format_stages(model.schedule.lengths)}"
        )
    elif stored.tables.images == 0:
        reason = "it does not say how many images it averages over"
    elif stored.provenance.fingerprint != model.weight_fingerprint():
        known = stored.provenance.fingerprint is not None
        reason = "it was measured with other weights" if known else "it does not name its weights"
    if reason:
        raise SimilarityFileError(
            f"{path}: the calibration cannot be continued, {reason}; "
            "delete the file to start anew, or choose another --sim-path"
        )


def calibration_file(run: Run) -> Path:
    """The file that a calibration writes: ``--sim-path``, else beside the model, else the images.

    Raises:
        OSError: it cannot be written.
        ValueError: its format is unknown or cannot hold this model's table.
    """
    model, folders = run.pipeline.model, run.pipeline.folders
    if run.args.sim_path:
        check_destination(run.args.sim_path, model.depth, model.schedule)
        return Path(run.args.sim_path)
    if folders is not None:
        try:
            check_destination(folders.similarity_files[0], model.depth, model.schedule)
            return folders.similarity_files[0]
        except OSError:  # a checkpoint that may not be changed
            pass
    return run.folder / SIMILARITY_FILE


def keep_calibration(run: Run, source: SimilaritySource) -> None:
    """Save what a calibration has measured so far.

    Raises:
        OSError: the file cannot be written.
    """
    run.pipeline.model.save_similarity_data(source.path)
    source.images = run.pipeline.model.similarity.images


def say_calibration(run: Run, source: SimilaritySource) -> None:
    """Say what a calibration measured and where it is."""
    added = source.images - source.continued
    if not added:
        run.say(f"no image was measured; {source.path} is unchanged")
        return
    before = f", added to the {source.continued} that were there" if source.continued else ""
    run.say(f"calibrated on {added} images{before}; similarity table saved as {source.path}")
