"""The ways in which one model draws, and what a fresh process draws in each.

``python -m tests.reliability.modes CHECKPOINT FOLDER`` draws one image per mode and saves it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL.Image import Image

from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline
from hart.pipeline.options import ImageRequest
from hart.utils.images import save_png

PLAIN_MODES = ("off", "cached", "calibrating")
ENGINE_MODES = ("engine-off", "engine-merged", "engine-adaptive", "engine-calibrating")
MODES = PLAIN_MODES + ENGINE_MODES
PRESETS = {"cached": "ultra-fast", "engine-merged": "aggressive", "engine-adaptive": "ultra-fast"}
"""Of the modes that cache; ``ultra-fast`` has a probe."""
PROMPT, SEED = "a red fox", 11


def enter(pipeline: HARTPipeline, mode: str) -> None:
    """Configure the model; similarities differ between layers, so that some modules are reused."""
    pipeline.use_engine = mode in ENGINE_MODES
    model = pipeline.model
    model.calibration = mode.endswith("calibrating")
    model.set_cache_config(PRESETS.get(mode, "no-cache"))
    width = model.schedule.width
    rows = [[0.9 if layer != 1 else 0.2] * width for layer in range(model.depth)]
    attn, mlp = rows, [list(row) for row in reversed(rows)]
    model.similarity = SimilarityTables([list(row) for row in attn], mlp, images=1)
    model.reset_cache_statistics()


def traces(pipeline: HARTPipeline) -> dict:
    """What one image leaves behind, beside the times that it took."""
    statistics = pipeline.model.get_cache_statistics()
    del statistics["seconds"]
    return json.loads(json.dumps(statistics))


def draw(pipeline: HARTPipeline) -> Image:
    """The image of every mode's test."""
    return pipeline.draw_together([ImageRequest(0, PROMPT, SEED)])[0].image


def main(checkpoint: str, folder: str) -> None:
    pipeline = HARTPipeline.from_pretrained(checkpoint, device="cpu", system_prompt="")
    for mode in MODES:
        enter(pipeline, mode)
        save_png(draw(pipeline), Path(folder) / f"{mode}.png")
        (Path(folder) / f"{mode}.json").write_text(json.dumps(traces(pipeline)))


if __name__ == "__main__":
    main(*sys.argv[1:])
