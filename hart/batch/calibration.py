"""Similarity tables that several batches, processes or runs measured, merged by their counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hart.batch.processes import Processes
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_formats import Provenance
from hart.modules.networks.caching.similarity_io import StoredSimilarity
from hart.modules.networks.caching.similarity_merge import merge_similarity
from hart.pipeline import GenerationOptions, HARTPipeline
from hart.pipeline.options import seeds_for
from hart.utils.progress import progress_bar


def tables_to_dict(tables: SimilarityTables) -> dict[str, Any]:
    """JSON-able, without loss."""
    return {"attn": tables.attn, "mlp": tables.mlp, "images": tables.images}


def merged_tables(pipeline: HARTPipeline, parts: Sequence[Mapping[str, Any]]) -> SimilarityTables:
    """The mean of ``parts``, from :func:`tables_to_dict`, weighted by their images.

    Equal to the last bit for equal parts in equal order, whoever measured them.

    Raises:
        ValueError: a part does not fit the model.
    """
    if not parts:
        raise ValueError("expected at least one similarity table")
    model = pipeline.model
    stored = {}
    for number, part in enumerate(parts):
        tables = SimilarityTables(**part)
        tables.validate(model.depth, model.schedule)
        provenance = Provenance(tuple(model.patch_nums), images=tables.images)
        stored[f"table {number}"] = StoredSimilarity(tables, provenance)
    return merge_similarity(stored).tables


def calibrate_together(
    pipeline: HARTPipeline,
    prompts: Sequence[str],
    options: GenerationOptions,
    processes: Processes,
    quiet: bool = False,
) -> None:
    """Measure one image of each prompt, each process some of them, and give all the same table.

    Prompt ``i`` is drawn by itself with ``seed + i``, so that the table does not depend on the
    number of processes.
    """
    fields = {**options.to_dict(), "num_images_per_prompt": 1}
    measured = []
    seeds = seeds_for(len(prompts), options.seed)
    share = processes.split(list(enumerate(prompts)))
    with progress_bar(len(share), "image", quiet or not processes.is_main) as bar:
        bar.set_description("calibrating")
        for number, prompt in share:
            pipeline.model.clear_similarity_data()  # every image stands alone
            fields["seed"] = seeds[number]
            tables = pipeline.calibrate([prompt], quiet=True, **fields)
            measured.append((number, tables_to_dict(tables)))
            bar.update()
    gathered = sorted(processes.gather(measured), key=lambda entry: entry[0])
    pipeline.transformer.similarity = merged_tables(pipeline, [tables for _, tables in gathered])
