"""HART for programs that load their pipelines with ``diffusers``.

    DiffusionPipeline.from_pretrained(
        CHECKPOINT, custom_pipeline="integrations/diffusers", trust_remote_code=True
    )

for a checkpoint that ``HARTPipeline.save_pretrained`` has written. One without a
``model_index.json``, as HART's own are published, is named beside this folder:

    DiffusionPipeline.from_pretrained(
        "integrations/diffusers", checkpoint=CHECKPOINT, trust_remote_code=True
    )

``trust_remote_code`` says that this file may be run.

``precision`` and ``cache`` are taken too; ``torch_dtype`` does not arrive here, which ``diffusers``
gives to parts that it loads itself.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline

from hart import HARTPipeline


class HARTDiffusionPipeline(DiffusionPipeline):
    """A ``DiffusionPipeline`` that draws with a :class:`HARTPipeline`.

    Args:
        checkpoint: folder or name on the hub; by default what ``from_pretrained`` was given.
        precision: the weights' number format, "bf16" for example.
        cache: a preset's name.

    Attributes:
        hart: the pipeline, loaded when it is first needed. What else it can do is there.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        precision: str | None = None,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        self.register_to_config(checkpoint=checkpoint, precision=precision, cache=cache)
        self._hart: HARTPipeline | None = None

    @property
    def hart(self) -> HARTPipeline:
        if self._hart is None:
            config = self.config
            self._hart = HARTPipeline.from_pretrained(
                config.checkpoint or config._name_or_path,
                dtype=config.precision,
                cache=config.cache,
            )
        return self._hart

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As calling a :class:`HARTPipeline`; the result's ``images`` are the pictures."""
        return self.hart(*arguments, **options)

    def to(self, *place: Any, **named: Any) -> HARTDiffusionPipeline:
        """As :meth:`HARTPipeline.to`."""
        self.hart.to(*place, **named)
        return self

    @property
    def device(self) -> torch.device:
        return self.hart.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hart.dtype

    def set_progress_bar_config(self, **options: Any) -> None:
        self.hart.set_progress_bar_config(**options)

    def enable_model_cpu_offload(self, *place: Any, **named: Any) -> None:
        self.hart.enable_model_cpu_offload(*place, **named)

    def save_pretrained(self, save_directory: Any, **ignored: Any) -> None:
        self.hart.save_pretrained(save_directory)
