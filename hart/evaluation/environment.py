"""What a run ran on."""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers

from hart.pipeline import HARTPipeline
from hart.utils.huge_pages import prefers_huge_pages
from hart.version import __version__


def environment(pipeline: HARTPipeline) -> dict[str, Any]:
    """Versions, device and number format of a run."""
    device = pipeline.device
    return {
        "hart": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "huge_pages": prefers_huge_pages(),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
