"""A pipeline as a checkpoint: loading and saving it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline.folders import (
    PathLike,
    locate_checkpoint,
    resolve_system_prompt,
    resolve_use_ema,
)
from hart.pipeline.loading import load_bundled_similarity, load_transformer, resolve_device
from hart.pipeline.saving import save_hart
from hart.pipeline.text import load_text_encoder
from hart.utils.device import resolve_dtype

if TYPE_CHECKING:
    from hart.pipeline.pipeline import HARTPipeline


class PretrainedPipeline:
    """The part of :class:`HARTPipeline` that reads and writes checkpoints."""

    @classmethod
    def from_pretrained(
        cls,
        model_path: PathLike,
        text_model_path: PathLike | None = None,
        tokenizer_path: PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        cache: str | CacheConfig | None = None,
        use_ema: bool | None = None,
        system_prompt: str | None = None,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        **hub_options: Any,
    ) -> HARTPipeline:
        """Load a checkpoint, with the ``cache_similarity.json`` in it if there is one.

        Args:
            model_path: the checkpoint's root or its ``llm`` folder, or a name on the Hugging Face
                hub.
            text_model_path: the text encoder; by default ``text_model`` in the root.
            tokenizer_path: the text tokenizer, by default the text encoder's; the folder of an
                image autoencoder is taken as that.
            device: by default CUDA, else MPS, else the CPU.
            dtype: of all weights, see :func:`resolve_dtype`; by default float16 on CUDA and float32
                elsewhere.
            cache: a preset's name or a configuration; None keeps what the checkpoint's config says.
            use_ema: True requires the averaged weights, False ignores them, None uses them if the
                checkpoint has any.
            system_prompt: instruction put before every prompt; by default the checkpoint's
                ``system_prompt.txt``, else the library's own.
            subfolder, revision: a folder inside ``model_path``, and its state on the hub.
            hub_options: ``cache_dir``, ``token``, ``force_download`` and ``local_files_only`` for
                whatever is fetched from the hub.

        Raises:
            CheckpointError: a part is missing, damaged or of another kind.
            ValueError: unknown device or preset, or a dtype that the device cannot compute in.

        Warns:
            UserWarning: the checkpoint's similarity data cannot be used or lack transitions.
        """
        device = resolve_device(device)
        dtype = resolve_dtype("auto" if dtype is None else dtype, device)
        folders = locate_checkpoint(
            model_path,
            text_model_path,
            tokenizer_path,
            subfolder=subfolder,
            revision=revision,
            **hub_options,
        )
        system_prompt = resolve_system_prompt(folders, system_prompt)
        model = load_transformer(folders, resolve_use_ema(folders, use_ema), dtype, device)
        if cache is not None:
            model.set_cache_config(cache)
        text_model, tokenizer = load_text_encoder(folders, model.context_dim, dtype, device)
        pipeline = cls(model, text_model, tokenizer, system_prompt, folders)
        load_bundled_similarity(model, folders)
        return pipeline

    def save_pretrained(self, folder: PathLike) -> None:
        """Write everything as a checkpoint that :meth:`from_pretrained` loads.

        That is ``llm`` with the similarity table and the instruction, ``tokenizer`` and
        ``text_model``, in the dtype that they have; the cache configuration is in ``llm``.

        Raises:
            TypeError: the text encoder or its tokenizer has no ``save_pretrained``.
            ValueError: the folder has averaged weights of another model, or a part is offloaded or
                has adapters or other parts that its class does not have.
            OSError: the folder cannot be written.
        """
        save_hart(self, folder)

    @property
    def similarity_path(self) -> Path | None:
        """The file that the model's similarity data were read from, if any."""
        return self.transformer.similarity_path

    @similarity_path.setter
    def similarity_path(self, path: Path | None) -> None:
        self.transformer.similarity_path = path
