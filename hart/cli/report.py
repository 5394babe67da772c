"""The report of a run: entries per image, the summary, and what it all ran on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hart.cli.run import Run
from hart.cli.similarity import SimilaritySource
from hart.evaluation.environment import environment
from hart.modules.networks.caching.stages import StageSchedule
from hart.pipeline import HARTPipeline, ImageResult
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
    total = model.cache_statistics.total()
    reasons = [] if total.reused or model.calibration else _reasons(pipeline)
    return {
        "images": len(entries),
        "seconds_per_image": {part: _mean_seconds(entries, part) for part in ("total", *PARTS)},
        "modules": total.computed + total.reused,
        "modules_reused": total.reused,
        "multiply_adds_saved": model.cache_statistics.saved_share,
        "reasons_for_no_reuse": reasons,
    }


def _mean_seconds(entries: Sequence[dict], part: str) -> float | None:
    return sum(entry["seconds"][part] for entry in entries) / len(entries) if entries else None


def _reasons(pipeline: HARTPipeline) -> list[str]:
    if not pipeline.model.use_cache:
        return ["caching is switched off"]
    config = pipeline.model.cache_config
    if config.changes_anything and not config.skip_stages:
        return []  # it does something else than reusing
    reasons = pipeline.model.decision_plan().reasons
    return list(reasons or ["the adaptive threshold accepted no transition in this run"])


def summary_lines(pipeline: HARTPipeline, summary: dict[str, Any]) -> list[str]:
    """The summary for people."""
    seconds = summary["seconds_per_image"]
    lines = []
    if summary["images"]:
        parts = ", ".join(f"{part} {seconds[part]:.2f}" for part in PARTS)
        lines.append(f"{seconds['total']:.2f} s per image ({parts})")
    config = pipeline.model.cache_config
    reuses = config.enabled_sites and config.skip_stages
    if not (pipeline.model.use_cache and (reuses or config.changes_anything)):
        return [*lines, "caching: off"]
    if pipeline.model.calibration:
        return [*lines, "caching: off while calibrating"]
    lines.append(
        f"caching: {summary['modules_reused']} of {summary['modules']} modules reused, "
        f"{summary['multiply_adds_saved']:.1%} of the transformer's multiply-adds saved; {config}"
    )
    return lines + [f"nothing was reused: {reason}" for reason in summary["reasons_for_no_reuse"]]


def run_report(
    run: Run, entries: Sequence[dict], similarity: SimilaritySource, complete: bool
) -> dict[str, Any]:
    """The content of ``generation_results.json``; ``complete`` is False if the run ended early."""
    pipeline = run.pipeline
    return {
        "settings": run_settings(run),
        "similarity": similarity_entry(similarity),
        "system_prompt": _system_prompt(run),
        "environment": environment(pipeline),
        "complete": complete,
        "summary": summarise(pipeline, entries),
        "images": list(entries),
    }


def run_settings(run: Run) -> dict[str, Any]:
    """What was drawn, with which model and which cache configuration."""
    return {
        **run.options.to_dict(),
        **_model(run),
        "cache_preset": run.args.cache_preset,
        "cache_config": run.pipeline.model.cache_config.to_dict(),
        "calibration": bool(run.args.calibration),
        "assume_similarity": run.args.assume_similarity,
    }


def _model(run: Run) -> dict[str, str | None]:
    folders = run.pipeline.folders
    if folders is None:
        name = f"random weights {run.args.random_weights}, seed {run.args.seed}"
        return {"model": name, "text_model": None, "text_tokenizer": None}
    return folders.parts


def similarity_entry(similarity: SimilaritySource) -> dict[str, Any]:
    """Where the similarity table came from."""
    return {
        "origin": similarity.origin,
        "path": None if similarity.path is None else str(similarity.path),
        "images": similarity.images,
    }


def _system_prompt(run: Run) -> dict[str, Any] | None:
    if run.kind == "classes":
        return None
    text = run.pipeline.system_prompt
    return {
        "used": run.options.use_llm_system_prompt and bool(text),
        "is_hart": is_hart_system_prompt(text),
        "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
    }
