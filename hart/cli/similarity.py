"""Where a run's similarity table comes from: a file that is given, one beside the model, or now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hart.cli.run import Run
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline
from hart.pipeline.folders import SIMILARITY_FILE

MAX_CALIBRATION_PROMPTS = 8


@dataclass(frozen=True)
class SimilaritySource:
    """What a run's table is.

    Attributes:
        origin: ``"none"``, ``"file"`` or ``"calibration"``.
        path: the file it was read from or saved to.
        images: number of images that it averages over, 0 if unknown.
    """

    origin: str
    path: Path | None = None
    images: int = 0


NO_TABLE = SimilaritySource("none")


def prepare_similarity(run: Run) -> SimilaritySource:
    """Give the model a table before it generates, if its configuration needs one.

    Raises:
        OSError: ``--sim-path`` cannot be read.
        ValueError: the file is damaged or belongs to another model.
    """
    pipeline, model = run.pipeline, run.pipeline.model
    if model.calibration:
        clear_similarity(pipeline)
        return NO_TABLE
    if not (model.use_cache and model.cache_config.caches_anything):
        return NO_TABLE
    if run.args.sim_path:
        pipeline.load_similarity(run.args.sim_path)
    elif pipeline.similarity_path is None:
        return calibrate_first(run)
    return SimilaritySource("file", pipeline.similarity_path, model.similarity.images)


def calibrate_first(run: Run) -> SimilaritySource:
    """Measure a table on some of the run's prompts."""
    clear_similarity(run.pipeline)
    prompts = run.prompts[:MAX_CALIBRATION_PROMPTS]
    run.say(f"no similarity table for this checkpoint: calibrating on {len(prompts)} prompts first")
    options = {**run.options.to_dict(), "num_images_per_prompt": 1}
    run.pipeline.calibrate(prompts, quiet=run.args.quiet, **options)
    return save_calibration(run)


def clear_similarity(pipeline: HARTPipeline) -> None:
    """Start a calibration from nothing."""
    model = pipeline.model
    model.similarity = SimilarityTables.empty(model.depth, model.schedule)


def save_calibration(run: Run) -> SimilaritySource:
    """Save the model's table to ``--sim-path``, else beside the model, else with the images.

    Raises:
        OSError: none of them can be written.
        ValueError: ``--sim-path`` has an unknown suffix.
    """
    model, folders = run.pipeline.model, run.pipeline.folders
    if run.args.sim_path:
        file = model.save_similarity_data(run.args.sim_path)
    else:
        try:
            file = model.save_similarity_data(folders.llm / SIMILARITY_FILE)
        except OSError:  # a checkpoint that may not be changed
            file = model.save_similarity_data(run.folder / SIMILARITY_FILE)
    run.say(f"calibrated on {model.similarity.images} images; similarity table saved as {file}")
    return SimilaritySource("calibration", Path(file), model.similarity.images)
