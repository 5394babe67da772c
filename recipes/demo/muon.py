"""Muon (Jordan et al. 2024) for matrices and convolutions: orthogonalised momentum updates.

Early training of the demo's networks is several times faster than with AdamW alone, which keeps
everything else: norms, biases, embeddings, first and last layers. ``torch.optim.Muon`` takes
matrices only and always orthogonalises in bfloat16, a hundred times slower than float32 on
processors without instructions for it; here that is done where it is fast.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from hart.utils.device import computes_fast_in_half

# Quintic iteration whose fixed points are singular values near 1 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class ConvMuon(torch.optim.Optimizer):
    """Muon over weights of two or more axes; those after the first count as one.

    Args:
        weights: parameters (out, ...).
        lr: length of the update of a square matrix; a tall one's is longer, by the root of
            rows over columns.
        momentum: of the gradient's running sum, applied as Nesterov's.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group["lr"], group["momentum"])
        return loss

    def _update(self, weight: nn.Parameter, lr: float, momentum: float) -> None:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
        update = orthogonalised(weight.grad.lerp(average, momentum).flatten(1))
        rows, columns = update.shape
        scale = max(1.0, rows / columns) ** 0.5
        weight.add_(update.view_as(weight), alpha=-lr * scale)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix (m, n) with all its singular values moved near 1."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    if computes_fast_in_half(matrix.device.type):
        x = x.to(torch.bfloat16)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def muon_and_adamw(
    module: nn.Module, hidden: Iterable[nn.Parameter], muon_lr: float, adamw_lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the ``hidden`` weights, AdamW for the module's other trainable parameters."""
    hidden = list(hidden)
    chosen = {id(weight) for weight in hidden}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in chosen]
    adamw = torch.optim.AdamW(others, lr=adamw_lr, betas=(0.9, 0.99), weight_decay=0.0)
    return [ConvMuon(hidden, muon_lr), adamw]
