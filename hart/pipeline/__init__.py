"""From prompts to pictures: text encoder, cached transformer and image decoder in one object."""

from hart.pipeline.folders import CheckpointFolders, find_similarity_file, locate_checkpoint
from hart.pipeline.options import GenerationOptions
from hart.pipeline.pipeline import HARTPipeline
from hart.pipeline.results import HARTPipelineOutput, ImageResult, StagePreview

__all__ = [
    "CheckpointFolders",
    "GenerationOptions",
    "HARTPipeline",
    "HARTPipelineOutput",
    "ImageResult",
    "StagePreview",
    "find_similarity_file",
    "locate_checkpoint",
]
