"""Prompts in, pictures out: the pipeline for HART's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hart.modules.models.autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.generation_state import check_chunks
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline.base import Pipeline
from hart.pipeline.folders import (
    CheckpointFolders,
    PathLike,
    locate_checkpoint,
    resolve_system_prompt,
    resolve_use_ema,
)
from hart.pipeline.keywords import takes_options
from hart.pipeline.loading import resolve_device, resolve_place
from hart.pipeline.options import GenerationOptions, ImageRequest, plan_images
from hart.pipeline.saving import save_hart
from hart.pipeline.text import encode_unique, load_text_encoder
from hart.utils.constants import llm_system_prompt


class HARTPipeline(Pipeline):
    """Text encoder, transformer with feature caching, and image decoder as one callable.

    Args:
        model, folders: as for :class:`Pipeline`, which says what can be set and called.
        text_model: the text encoder, on the transformer's device unless it is offloaded.
        text_tokenizer: the text encoder's tokenizer.
        system_prompt: instruction put before every prompt; an empty one means none.
    """

    draws = "prompts"
    options_class = GenerationOptions
    stream = takes_options(Pipeline.stream, GenerationOptions)
    __call__ = takes_options(Pipeline.__call__, GenerationOptions)

    def __init__(
        self,
        model: HARTForT2IEnhanced,
        text_model: PreTrainedModel,
        text_tokenizer: PreTrainedTokenizerBase,
        system_prompt: str = llm_system_prompt,
        folders: CheckpointFolders | None = None,
    ) -> None:
        super().__init__(model, folders)
        self.text_model = text_model
        self.text_tokenizer = text_tokenizer
        self.system_prompt = system_prompt

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
        torch_dtype: str | torch.dtype | None = None,
        **hub_options: Any,
    ) -> HARTPipeline:
        """Load a checkpoint, with the ``cache_similarity.json`` in it if there is one.

        Args:
            model_path: the checkpoint's root or its ``llm`` folder, or a name on the hub.
            text_model_path: the text encoder; by default ``text_model`` in the root.
            tokenizer_path: the text tokenizer, by default the text encoder's, or an autoencoder.
            device: by default CUDA, else MPS, else the CPU.
            dtype, torch_dtype: of all weights, see :func:`resolve_dtype`; None is "auto". The text
                encoder takes bfloat16 in the place of float16, see :func:`text_dtype`.
            cache: a preset's name or a configuration; None keeps what the checkpoint's config says.
            use_ema: True requires the averaged weights, False ignores them, None uses any.
            system_prompt: instruction put before every prompt; by default the checkpoint's
                ``system_prompt.txt``, else the library's own.
            hub_options: ``subfolder`` and ``revision`` of ``model_path``; ``cache_dir``, ``token``,
                ``force_download`` and ``local_files_only`` for whatever is fetched.

        Raises:
            CheckpointError: a part is missing, damaged or of another kind.
            ValueError: unknown device or preset, or a dtype that the device cannot compute in.

        Warns:
            UserWarning: the checkpoint's similarity data cannot be used or lack transitions.
        """
        device, dtype = resolve_place(device, dtype, torch_dtype)
        folders = locate_checkpoint(model_path, text_model_path, tokenizer_path, **hub_options)
        system_prompt = resolve_system_prompt(folders, system_prompt)
        use_ema = resolve_use_ema(folders, use_ema)
        vae = HARTAutoEncoder.from_tokenizer_folder(folders.autoencoder, dtype, device)
        model = HARTForT2IEnhanced.from_pretrained(
            folders.llm,
            use_ema=use_ema,
            vae=vae,
            dtype=dtype,
            device=device,
            vocab_size=vae.config.vocab_size,
            z_channels=vae.config.z_channels,
        )
        if cache is not None:
            model.set_cache_config(cache)
        text_model, tokenizer = load_text_encoder(folders, model.context_dim, dtype, device)
        for file in folders.similarity_files[1:]:  # the first one came with the model
            model.load_own_similarity(file)
        return cls(model, text_model, tokenizer, system_prompt, folders)

    @property
    def components(self) -> dict[str, Any]:
        names = ("model", "text_model", "text_tokenizer", "system_prompt")
        return {name: getattr(self, name) for name in names}

    def enable_model_cpu_offload(self, device: str | torch.device | None = None) -> None:
        """Have the text encoder on ``device`` only while it encodes, and on the CPU otherwise.

        It is the largest part, and drawing needs room for keys and values. Every batch waits until
        its weights are copied. The transformer and its autoencoder move to ``device`` and stay.

        Args:
            device: by default CUDA, else MPS, else the CPU.

        Raises:
            ValueError: not the name of a device.
        """
        self._encodes_on = resolve_device(device)
        self.transformer.to(self._encodes_on)
        self.text_model.to("cpu")

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

    def _checked(self, options: Mapping[str, Any]) -> GenerationOptions:
        checked, expected = super()._checked(options), self.transformer.context_token
        if checked.max_token_length not in (None, expected):
            raise ValueError(
                f"max_token_length is {checked.max_token_length}, but this transformer was trained "
                f"with {expected} text positions and accepts only that"
            )
        check_chunks(checked.num_maskgit_iters, self.model.patch_nums)
        return checked

    def _plan(self, prompts: str | Sequence[str], options: GenerationOptions) -> list[ImageRequest]:
        return plan_images(prompts, options)

    def _condition(
        self, batch: Sequence[ImageRequest], options: GenerationOptions
    ) -> dict[str, Any]:
        features, position_ids, mask = encode_unique(
            [str(request.prompt) for request in batch],
            self.text_model,
            self.text_tokenizer,
            self.transformer.context_token,
            self.system_prompt if options.use_llm_system_prompt else "",
            self._encodes_on,
        )
        return {
            "label_B": features,
            "context_position_ids": position_ids,
            "context_mask": mask,
            "num_maskgit_iters": options.num_maskgit_iters,
        }
