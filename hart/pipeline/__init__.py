"""From prompts or classes to pictures: everything that a checkpoint holds in one object."""

from hart.lazy import lazy_names

TYPE_CHECKING = False  # type checkers take it for True
if TYPE_CHECKING:
    from hart.pipeline.folders import CheckpointFolders as CheckpointFolders
    from hart.pipeline.folders import find_similarity_file as find_similarity_file
    from hart.pipeline.folders import locate_checkpoint as locate_checkpoint
    from hart.pipeline.options import GenerationOptions as GenerationOptions
    from hart.pipeline.options import VARGenerationOptions as VARGenerationOptions
    from hart.pipeline.pipeline import HARTPipeline as HARTPipeline
    from hart.pipeline.results import HARTPipelineOutput as HARTPipelineOutput
    from hart.pipeline.results import ImageResult as ImageResult
    from hart.pipeline.results import StagePreview as StagePreview
    from hart.pipeline.var import VARPipeline as VARPipeline

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "hart.pipeline.folders": ("CheckpointFolders", "find_similarity_file", "locate_checkpoint"),
        "hart.pipeline.options": ("GenerationOptions", "VARGenerationOptions"),
        "hart.pipeline.pipeline": ("HARTPipeline",),
        "hart.pipeline.results": ("HARTPipelineOutput", "ImageResult", "StagePreview"),
        "hart.pipeline.var": ("VARPipeline",),
    },
)
