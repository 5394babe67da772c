"""The nodes, in ComfyUI's V3 schema."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from hart.cli.arguments import DTYPES
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.pipeline import GenerationOptions

from . import models

Model = io.Custom("HART_MODEL")
CATEGORY = "HART"
_SEED = {"default": GenerationOptions.seed, "min": 0, "max": 2**53 - 1}


class LoadHART(io.ComfyNode):
    """A checkpoint from ``models/hart``, with the similarity table in it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadHART",
            display_name="Load HART",
            category=CATEGORY,
            description="A HART checkpoint from models/hart, or the bundled demo.",
            inputs=[
                io.Combo.Input("checkpoint", options=list(models.checkpoints())),
                io.Combo.Input("dtype", options=list(DTYPES), default=DTYPES[0]),
            ],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, checkpoint: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(models.load(checkpoint, dtype))


class HARTCache(io.ComfyNode):
    """How a model caches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        text = "; ".join(f"{name}: {preset.description}" for name, preset in CACHE_PRESETS.items())
        return io.Schema(
            node_id="HARTCache",
            display_name="HART cache",
            category=CATEGORY,
            description="How much is reused from stage to stage: faster, or closer to no cache.",
            inputs=[
                Model.Input("model"),
                io.Combo.Input(
                    "preset", options=list(CACHE_PRESETS), default="original", tooltip=text
                ),
            ],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: models.HARTModel, preset: str) -> io.NodeOutput:
        return io.NodeOutput(models.with_preset(model, preset))


class HARTCalibrate(io.ComfyNode):
    """A similarity table of a model's own, which reusing needs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HARTCalibrate",
            display_name="HART calibrate",
            category=CATEGORY,
            description="Measures on images of these prompts what can be reused. For checkpoints "
            "without a similarity table.",
            inputs=[
                Model.Input("model"),
                io.String.Input("prompts", multiline=True, tooltip="One prompt per line."),
                io.Int.Input("seed", **_SEED),
            ],
            outputs=[Model.Output(display_name="model"), io.String.Output(display_name="summary")],
        )

    @classmethod
    def execute(cls, model: models.HARTModel, prompts: str, seed: int) -> io.NodeOutput:
        return io.NodeOutput(*models.calibrate(model, prompts, seed))


class HARTDraw(io.ComfyNode):
    """Pictures of a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HARTDraw",
            display_name="HART draw",
            category=CATEGORY,
            description="Draws pictures of a prompt; the summary says what caching saved.",
            inputs=[
                Model.Input("model"),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True),
                io.Int.Input("seed", control_after_generate=True, **_SEED),
                io.Float.Input(
                    "guidance", default=GenerationOptions.cfg_scale, min=0.0, max=30.0, step=0.1
                ),
                io.Int.Input("images", default=1, min=1, max=64),
            ],
            outputs=[io.Image.Output(), io.String.Output(display_name="summary")],
        )

    @classmethod
    def execute(
        cls, model: models.HARTModel, prompt: str, seed: int, guidance: float, images: int
    ) -> io.NodeOutput:
        return io.NodeOutput(*models.draw(model, prompt, seed, guidance, images))


class HARTExtension(ComfyExtension):
    """The list of nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadHART, HARTCache, HARTCalibrate, HARTDraw]
