"""Where a batch's similarity table comes from: one table for all processes and all resumed runs."""

from __future__ import annotations

from collections.abc import Sequence

from hart.batch.calibration import calibrate_together
from hart.batch.folder import BatchFolder
from hart.batch.jobs import Job
from hart.batch.processes import Processes
from hart.cli.run import Run
from hart.cli.similarity import (
    MAX_CALIBRATION_PROMPTS,
    SimilaritySource,
    calibration_file,
    keep_calibration,
    say_calibration,
    start_calibration,
)
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity_io import SIMILARITY_FILE


def prepare_batch_similarity(
    run: Run, jobs: Sequence[Job], processes: Processes
) -> SimilaritySource:
    """Give the model a table, if a job's configuration needs one; called by every process.

    Raises:
        OSError: ``--sim-path`` cannot be read, or written if it is a calibration's.
        ValueError: the file is damaged or belongs to another model.
    """
    pipeline, model = run.pipeline, run.pipeline.model
    if model.calibration:
        return start_calibration(run)
    if not (model.use_cache and _caches_anything(run, jobs)):
        return SimilaritySource("none")
    own = run.folder / SIMILARITY_FILE  # of an earlier run that could not write beside the model
    if run.args.sim_path:
        pipeline.load_similarity(run.args.sim_path)
    elif pipeline.similarity_path is None and processes.from_main(own.is_file()):
        pipeline.load_similarity(own)
    if pipeline.similarity_path is not None:
        return SimilaritySource("file", pipeline.similarity_path, model.similarity.images)
    return _calibrate_first(run, processes)


def _caches_anything(run: Run, jobs: Sequence[Job]) -> bool:
    sides = run.pipeline.model.patch_nums
    presets = {job.cache_preset for job in jobs}
    configs = [
        run.pipeline.model.cache_config if p is None else preset_config(p, sides) for p in presets
    ]
    return any(config.caches_anything for config in configs)


def _calibrate_first(run: Run, processes: Processes) -> SimilaritySource:
    """Measure a table on some of the prompts; the main process saves it once it is complete."""
    prompts = run.prompts[:MAX_CALIBRATION_PROMPTS]
    run.say(f"no similarity table for this checkpoint: calibrating on {len(prompts)} prompts first")
    calibrate_together(run.pipeline, prompts, run.options, processes, run.args.quiet)
    source = SimilaritySource("calibration", images=run.pipeline.model.similarity.images)
    if processes.is_main:
        BatchFolder(run.folder).require()  # saving a table would make the folder anew
        source.path = calibration_file(run)
        keep_calibration(run, source)
        say_calibration(run, source)
    processes.wait()
    return source
