"""Whether numbers stayed finite while images were drawn, asked once, when they are finished."""

from __future__ import annotations

import warnings

import torch

from hart.modules.models.transformer.generation_state import Generation, GenerationSteps
from hart.modules.networks.rope import MaskIndex

TEXT, RESIDUAL, DECODER = "the text encoder", "the diffusion head", "the image decoder"
_REMEDY = {
    torch.float16: "draw in bfloat16 (dtype='bfloat16'), which does not overflow",
    torch.bfloat16: "draw in float32 (dtype='float32')",
}


class FiniteWatch:
    """Executes a generation's steps as another object does, and watches what they put out.

    Every output is added up on its device, which costs one kernel, and nobody waits for the sums
    before :meth:`first`. A sum is finite only if all of its terms are.

    Args:
        steps: what executes.
    """

    def __init__(self, steps: GenerationSteps) -> None:
        self.steps = steps
        self._sums: list[tuple[str, torch.Tensor]] = []

    def see(self, part: str, values: torch.Tensor) -> None:
        """Watch what a part has put out, any shape."""
        self._sums.append((part, values.detach().sum(dtype=torch.float32)))

    def first(self) -> str | None:
        """The first part whose output was not finite; None if all were. Waits for the device."""
        if not self._sums:
            return None
        finite = torch.stack([total for _, total in self._sums]).isfinite().tolist()
        return next((p for (p, _), ok in zip(self._sums, finite, strict=True) if not ok), None)

    def begin(self, run: Generation) -> None:
        """See ``GenerationSteps``."""
        self.steps.begin(run)

    def run_blocks(
        self, x: torch.Tensor, run: Generation, si: int, m_maskgit: MaskIndex | None = None
    ) -> torch.Tensor:
        """See ``GenerationSteps``."""
        hidden = self.steps.run_blocks(x, run, si, m_maskgit)
        self.see(f"stage {si} of the transformer", hidden)
        return hidden

    def guided_logits(self, hidden: torch.Tensor, run: Generation, t: float) -> torch.Tensor:
        """See ``GenerationSteps``."""
        return self.steps.guided_logits(hidden, run, t)

    def residual(
        self, hidden: torch.Tensor, ids: torch.Tensor, run: Generation, t: float
    ) -> torch.Tensor:
        """See ``GenerationSteps``."""
        values = self.steps.residual(hidden, ids, run, t)
        self.see(RESIDUAL, values)
        return values


def warn_not_finite(part: str, dtype: torch.dtype) -> None:
    """Say which part of a pipeline in ``dtype`` put out infinite numbers, and what to do."""
    remedy = _REMEDY.get(dtype, "the weights may be damaged")
    name = str(dtype).removeprefix("torch.")
    warnings.warn(
        f"{part} put out numbers that are not finite in {name}, so the picture is wrong; {remedy}",
        stacklevel=2,
    )
