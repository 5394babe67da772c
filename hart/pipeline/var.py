"""Classes in, pictures out: the pipeline for VAR's class-conditional checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hart.modules.models.transformer.var_checkpoint import locate_var_files
from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline.base import Pipeline
from hart.pipeline.folders import PathLike
from hart.pipeline.keywords import takes_options
from hart.pipeline.loading import resolve_place
from hart.pipeline.options import ImageRequest, VARGenerationOptions, plan_classes
from hart.pipeline.saving import save_var
from hart.utils.hub import local_path
from hart.utils.weights import CheckpointError


class VARPipeline(Pipeline):
    """Class-conditional transformer with feature caching, and image decoder, as one callable.

    It is used like :class:`HARTPipeline`, with class indices in the place of prompts and
    :class:`VARGenerationOptions`; there is no text encoder. See :class:`Pipeline`.
    """

    draws = "classes"
    options_class = VARGenerationOptions
    stream = takes_options(Pipeline.stream, VARGenerationOptions)
    __call__ = takes_options(Pipeline.__call__, VARGenerationOptions)

    @classmethod
    def from_pretrained(
        cls,
        model_path: PathLike,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        cache: str | CacheConfig | None = None,
        torch_dtype: str | torch.dtype | None = None,
        **hub_options: Any,
    ) -> VARPipeline:
        """Load a checkpoint, with the similarity table beside it if there is one.

        Args:
            model_path: the transformer's ``.pth`` file, or a folder with one; the autoencoder's
                file is beside it. On the Hugging Face hub ``organisation/model``, or
                ``organisation/model/file.pth`` where there are several.
            device, dtype, torch_dtype, hub_options: as for :class:`HARTPipeline`.
            cache: a preset's name or a configuration; None means no caching.

        Raises:
            CheckpointError: a file is missing, damaged or of another kind.
            ValueError: unknown device or preset, or a dtype that the device cannot compute in.
        """
        device, dtype = resolve_place(device, dtype, torch_dtype)
        files = locate_var_files(local_path(model_path, **hub_options))
        if files.autoencoder is None:
            raise CheckpointError(
                f"{files.transformer.parent}: no autoencoder (vae_ch160v4096z32.pth) beside "
                f"{files.transformer.name}"
            )
        model = VARForC2IEnhanced.from_pretrained(files.transformer, dtype=dtype, device=device)
        _ = model.vae_proxy  # read now, not in the middle of the first image
        if cache is not None:
            model.set_cache_config(cache)
        return cls(model, files)

    def save_pretrained(self, folder: PathLike) -> None:
        """Write the checkpoint as VAR's are published: two ``.pth`` files and the table beside.

        They hold weights alone, no cache configuration: give :meth:`from_pretrained` its ``cache``.

        Raises:
            ValueError: the model has sizes that weights do not tell, or is not as its class makes
                it (adapters, offload), or the folder holds other ``.pth`` files.
            OSError: the folder cannot be written.
        """
        save_var(self, folder)

    def _plan(
        self, prompts: int | Sequence[int], options: VARGenerationOptions
    ) -> list[ImageRequest]:
        return plan_classes(prompts, self.transformer.num_classes, options)

    def _condition(
        self, batch: Sequence[ImageRequest], options: VARGenerationOptions
    ) -> dict[str, Any]:
        return {"label_B": [request.prompt for request in batch], "top_k": options.top_k}
