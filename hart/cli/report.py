"""The report of a run: entries per image, the summary, and what it all ran on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hart.cli.run import Run
from hart.cli.similarity import SimilaritySource
from hart.evaluation.environment import environment
from hart.modules.networks.caching.presets import preset_config, preset_name
from hart.modules.networks.caching.stages import StageSchedule
from hart.pipeline import HARTPipeline, ImageResult
from hart.pipeline.savings import caching_lines, reasons_for_no_reuse
from hart.utils.constants import is_hart_system_prompt

PARTS = ("text", "transformer", "residual", "decode")


def image_entry(result: ImageResult, file: Path | None, schedule: StageSchedule) -> dict[str, Any]:
    """One image's entry; seconds are its share of its batch's."""
    lengths = schedule.lengths[: len(result.stages_s)]
    return {
        "index": result.index,
        **result.condition,
        "seed": result.seed,
        "file": None if file is None else file.name,
        "batch_size": result.batch_size,
        "seconds": {
            **result.seconds,
            "stages": {str(n): s for n, s in zip(lengths, result.stages_s, strict=True)},
        },
        "modules": result.stages,
    }


def summarise(pipeline: HARTPipeline, entries: Sequence[dict]) -> dict[str, Any]:
    """Mean seconds per image, reuse of the whole run, and why there was none."""
    model = pipeline.model
    statistics = model.cache_statistics
    modules = statistics.modules()
    return {
        "images": len(entries),
        "seconds_per_image": {part: _mean_seconds(entries, part) for part in ("total", *PARTS)},
        "modules": modules["all"],
        "modules_reused": modules["reused"],
        "modules_pruned": modules["pruned"],
        "multiply_adds_saved": statistics.saved_share,
        "multiply_adds_saved_by": statistics.saved_share_by,
        "reasons_for_no_reuse": reasons_for_no_reuse(model),
    }


def _mean_seconds(entries: Sequence[dict], part: str) -> float | None:
    return sum(entry["seconds"][part] for entry in entries) / len(entries) if entries else None


def summary_lines(pipeline: HARTPipeline, summary: dict[str, Any]) -> list[str]:
    """The summary for people."""
    seconds = summary["seconds_per_image"]
    lines = []
    if summary["images"]:
        parts = ", ".join(f"{part} {seconds[part]:.2f}" for part in PARTS)
        lines.append(f"{seconds['total']:.2f} s per image ({parts})")
    return lines + caching_lines(pipeline.model)


def report_head(run: Run, similarity: SimilaritySource, **settings: Any) -> dict[str, Any]:
    """What every report begins with: what was drawn with which model, table and machine."""
    pipeline = run.pipeline
    folders = pipeline.folders
    model = {
        "model": f"random weights {run.args.random_weights}, seed {run.args.seed}",
        "text_model": None,
        "text_tokenizer": None,
    }
    return {
        "settings": {
            **run.options.to_dict(),
            **(model if folders is None else folders.parts),
            "cache_preset": run.args.cache_preset,
            "plan": run.args.plan or run.args.quality,
            "cache_config": pipeline.model.cache_config.to_dict(),
            "calibration": bool(run.args.calibration),
            "assume_similarity": run.args.assume_similarity,
            **settings,
        },
        "similarity": similarity_entry(similarity),
        "environment": environment(pipeline),
    }


def configuration_name(run: Run) -> str:
    """What the run's cache configuration is called: a preset, or how it came about."""
    model, asked = run.pipeline.model, run.args.cache_preset
    if not (model.use_cache and model.cache_config.changes_anything):
        return "no-cache"
    if run.args.plan or run.args.quality:
        return run.args.quality or Path(run.args.plan).stem
    if asked is None:
        return preset_name(model.cache_config, model.patch_nums) or "own configuration"
    is_preset = model.cache_config == preset_config(asked, model.patch_nums)
    return asked if is_preset else f"{asked} with other options"


def similarity_entry(similarity: SimilaritySource) -> dict[str, Any]:
    """Where the similarity table came from."""
    return {
        "origin": similarity.origin,
        "path": None if similarity.path is None else str(similarity.path),
        "images": similarity.images,
    }


def system_prompt_entry(run: Run) -> dict[str, Any] | None:
    """Whether an instruction stood before the prompts, and which; None for classes."""
    if run.pipeline.draws == "classes":
        return None
    text = run.pipeline.system_prompt
    return {
        "used": run.options.use_llm_system_prompt and bool(text),
        "is_hart": is_hart_system_prompt(text),
        "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
    }
