"""What the nodes do, as functions; of ComfyUI they use folders, progress and interruption."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hart import CacheConfig, HARTPipeline
from hart.demo import DEMO_CHECKPOINT
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline.caching import caching_for_a_while
from hart.pipeline.options import DEFAULT_BATCH_SIZE
from hart.pipeline.savings import no_reuse_lines, savings_text
from hart.utils.prompt_files import read_prompt_text

DEMO = "bundled demo"
_FOLDER = "hart"


@dataclass(frozen=True)
class HARTModel:
    """What goes from node to node: a shared pipeline, and how it is to be used.

    Attributes:
        pipeline: nodes leave it as it was.
        config: how it caches.
        similarity: the table in use.
    """

    pipeline: HARTPipeline
    config: CacheConfig
    similarity: SimilarityTables

    @contextlib.contextmanager
    def in_use(self) -> Iterator[HARTPipeline]:
        """The pipeline with this configuration and this table, for a moment."""
        model = self.pipeline.transformer
        before = model.similarity
        with caching_for_a_while(model):
            try:
                model.set_cache_config(self.config)
                model.similarity = self.similarity
                yield self.pipeline
            finally:
                model.similarity = before


def checkpoints() -> dict[str, Path]:
    """The demo, and the folders with a HART checkpoint in ComfyUI's ``models/hart``, by name."""
    import folder_paths

    own = Path(folder_paths.models_dir) / _FOLDER
    folder_paths.add_model_folder_path(_FOLDER, str(own))
    found = {DEMO: DEMO_CHECKPOINT}
    for root in folder_paths.get_folder_paths(_FOLDER):
        for config in sorted(Path(root).glob("*/llm/config.json")):
            found.setdefault(config.parents[1].name, config.parents[1])
    return found


def load(name: str, dtype: str) -> HARTModel:
    """A checkpoint, where ComfyUI computes.

    Raises:
        ValueError: there is none of that name, or it cannot be used.
    """
    import comfy.model_management

    found = checkpoints()
    if name not in found:
        raise ValueError(f"no checkpoint {name!r}; there are {', '.join(found)}")
    pipeline = _pipeline(found[name], dtype, str(comfy.model_management.get_torch_device()))
    model = pipeline.transformer
    return HARTModel(pipeline, model.cache_config, model.similarity)


@functools.lru_cache(maxsize=1)  # ComfyUI keeps what its graph uses; this keeps the last one
def _pipeline(folder: Path, dtype: str, device: str) -> HARTPipeline:
    return HARTPipeline.from_pretrained(folder, device=device, dtype=dtype)


def with_preset(model: HARTModel, preset: str) -> HARTModel:
    """The same model, cached as a preset says."""
    return replace(model, config=preset_config(preset, model.pipeline.transformer.patch_nums))


def draw(
    model: HARTModel, prompt: str, seed: int, guidance: float, images: int
) -> tuple[torch.Tensor, str]:
    """Images (B, H, W, 3) in [0, 1], and what caching saved; image i draws with seed + i."""
    with model.in_use() as pipeline:
        output = pipeline(
            prompt,
            num_images_per_prompt=images,
            seed=seed,
            cfg_scale=guidance,
            quiet=True,
            callback=_watched(pipeline, images),
        )
        text = _summary(pipeline)
    pictures = np.stack([np.asarray(image) for image in output.images])
    return torch.from_numpy(pictures).to(torch.float32) / 255, text


def calibrate(model: HARTModel, text: str, seed: int) -> tuple[HARTModel, str]:
    """The same model with a table measured on prompts, one per line.

    Raises:
        ValueError: no prompts, or a line that is none.
    """
    rows = list(read_prompt_text(text))
    for row in rows:
        if row.error is not None:
            raise ValueError(f"line {row.line}: {row.error}")
    prompts = [row.fields["prompt"] for row in rows]
    with model.in_use() as pipeline:
        pipeline.transformer.clear_similarity_data()
        watched = _watched(pipeline, len(prompts))
        tables = pipeline.calibrate(prompts, seed=seed, quiet=True, callback=watched)
        measured = replace(model, similarity=copy.deepcopy(tables))
    return measured, f"similarities measured on {tables.images} images"


def _summary(pipeline: HARTPipeline) -> str:
    """What was saved, and why nothing was reused if that is so."""
    model = pipeline.transformer
    statistics = model.get_cache_statistics()
    lines = [savings_text(statistics)]
    if not statistics["modules"]["reused"]:
        lines += no_reuse_lines(model.decision_plan().reasons, statistics["saved_share"] > 0)
    return "\n".join(lines)


def _watched(pipeline: HARTPipeline, images: int) -> Callable[[int, int], None]:
    """Shows progress after every stage, and stops when ComfyUI is told to."""
    import comfy.model_management
    import comfy.utils

    batches = math.ceil(images / DEFAULT_BATCH_SIZE)
    bar = comfy.utils.ProgressBar(batches * len(pipeline.transformer.patch_nums))

    def on_stage(si: int, num_stages: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)

    return on_stage
