"""What a request leaves in the output folder, to be shown and downloaded."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageChops

from hart.evaluation.environment import environment
from hart.evaluation.figures import save_figure
from hart.evaluation.image_grid import image_grid
from hart.evaluation.similarity_plot import plot_similarity
from hart.modules.networks.caching.plan import decide_all
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity_formats import Provenance
from hart.modules.networks.caching.similarity_io import (
    SIMILARITY_FILE,
    StoredSimilarity,
    save_similarity,
)
from hart.pipeline import HARTPipeline
from hart.utils.files import replacing, write_json, write_text
from hart.utils.images import save_png
from hart.version import __version__
from hart.web.events import Calibrated, Drawn
from hart.web.tables import called, image_qualities, image_table, stage_table

DIFFERENCE_GAIN = 4


class SavedRequest(NamedTuple):
    """Files of a request.

    Attributes:
        download: what the visitor may take along; of a drawing an archive of everything.
        pictures: of a drawing, file and caption of what the page shows; per image the asked-for
            configuration, then, where compared, the one without caching and the difference.
        pairs: where compared, per image the first two of these files.
        heat_map: of a calibration, the similarities.
    """

    download: Path
    pictures: Sequence[tuple[Path, str]] = ()
    pairs: Sequence[tuple[Path, Path]] = ()
    heat_map: Path | None = None


def save_drawing(
    drawn: Drawn,
    stages: Mapping[str, Sequence[Image.Image]],
    pipeline: HARTPipeline,
    folder: Path,
) -> SavedRequest:
    """Write images, tables and a report to a folder.

    Args:
        stages: small pictures of the first images after each stage; may be empty.

    Raises:
        OSError: a file cannot be written.
    """
    pictures = _save_pictures(drawn, folder)
    files = [path for path, _ in pictures]
    if stages:
        prompts = [str(result.prompt) for result in drawn.runs[0].results]
        shown = prompts[: len(next(iter(stages.values())))]
        grid = image_grid(shown, {name: ("", images) for name, images in stages.items()})
        files.append(save_png(grid, folder / "stage_by_stage.png"))
    for name, table in (("stages", stage_table(drawn)), ("images", image_table(drawn))):
        files.append(folder / f"{name}.csv")
        write_text(files[-1], table.to_csv())
    files.append(folder / "report.json")
    write_json(files[-1], drawing_report(drawn, pipeline))
    archive = folder / "all.zip"
    with replacing(archive) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as opened:
        for file in files:
            opened.write(file, file.name)
    paths = [path for path, _ in pictures]
    pairs = list(zip(paths[::3], paths[1::3], strict=True)) if len(drawn.runs) > 1 else []
    return SavedRequest(archive, pictures, pairs)


def _save_pictures(drawn: Drawn, folder: Path) -> list[tuple[Path, str]]:
    qualities = image_qualities(drawn)
    pictures: list[tuple[Path, str]] = []
    for index, results in enumerate(zip(*(run.results for run in drawn.runs), strict=True)):
        for run, result in zip(drawn.runs, results, strict=True):
            file = save_png(result.image, folder / f"{index:03d}-{run.name}.png", result.metadata)
            pictures.append((file, f"{called(run.name)}, seed {result.seed}"))
        if qualities:
            difference = ImageChops.difference(*(result.image for result in results))
            difference = difference.point(lambda level: min(255, DIFFERENCE_GAIN * level))
            file = save_png(difference, folder / f"{index:03d}-difference.png")
            caption = f"difference × {DIFFERENCE_GAIN}, {qualities[index].psnr_db:.1f} dB"
            pictures.append((file, caption))
    return pictures


def drawing_report(drawn: Drawn, pipeline: HARTPipeline) -> dict[str, Any]:
    """Everything about a drawing, JSON-able."""
    return {
        "options": drawn.request.options.to_dict(),
        "environment": environment(pipeline),
        "runs": {
            run.name: {
                "cache_config": run.config.to_dict(),
                "statistics": run.statistics,
                "reused_by_layer": run.reuse.to_dict(),
                "images": [
                    {"prompt": r.prompt, "seed": r.seed, "seconds": r.total_s} for r in run.results
                ],
            }
            for run in drawn.runs
        },
        "distance_from_no_cache": [
            {"psnr_db": None if math.isinf(q.psnr_db) else q.psnr_db, "ssim": q.ssim}
            for q in image_qualities(drawn)
        ],
        "notes": drawn.notes,
    }


def save_calibration(
    calibrated: Calibrated, pipeline: HARTPipeline, preset: str, folder: Path
) -> SavedRequest:
    """Write the similarity table and its heat map, with what ``preset`` would reuse, to a folder.

    Raises:
        OSError: a file cannot be written.
    """
    model, tables = pipeline.transformer, calibrated.tables
    plan = decide_all(preset_config(preset, model.patch_nums), model.schedule, tables)
    stored = StoredSimilarity(tables, Provenance(model.patch_nums, images=tables.images))
    heat_map, table = folder / "similarity.png", folder / SIMILARITY_FILE
    save_figure(plot_similarity(stored, "this calibration", plan, f"preset {preset}"), heat_map)
    weights = model.weight_fingerprint()
    save_similarity(table, tables, model.schedule, fingerprint=weights, library_version=__version__)
    return SavedRequest(table, heat_map=heat_map)
