"""From prompts or classes to pictures: everything that a checkpoint holds in one object."""

from hart.pipeline.folders import CheckpointFolders, find_similarity_file, locate_checkpoint
from hart.pipeline.options import GenerationOptions, VARGenerationOptions
from hart.pipeline.pipeline import HARTPipeline
from hart.pipeline.results import HARTPipelineOutput, ImageResult, StagePreview
from hart.pipeline.var import VARPipeline

__all__ = [
    "CheckpointFolders",
    "GenerationOptions",
    "HARTPipeline",
    "HARTPipelineOutput",
    "ImageResult",
    "StagePreview",
    "VARGenerationOptions",
    "VARPipeline",
    "find_similarity_file",
    "locate_checkpoint",
]
