"""Numbers that are not finite: told once, with the part that put them out first and the remedy."""

from __future__ import annotations

import warnings

import pytest
import torch

from hart.evaluation.random_weights import random_pipeline
from hart.pipeline.finite import DECODER, RESIDUAL, TEXT


def spoil(module: torch.nn.Module) -> None:
    """Let a module put out infinity."""
    module.register_forward_hook(lambda *called: called[-1] + torch.inf)


def stage(si: int):
    """Spoils the transformer from that stage on."""

    def change(pipeline) -> None:
        block = pipeline.model.blocks[1]
        block.register_forward_hook(
            lambda *called: called[-1] * torch.inf if called[2]["si"] >= si else called[-1],
            with_kwargs=True,
        )

    return change


def text(pipeline) -> None:
    pipeline.text_model.features[:] = torch.nan


PARTS = {
    TEXT: text,
    "stage 0 of the transformer": stage(0),
    "stage 3 of the transformer": stage(3),
    RESIDUAL: lambda pipeline: spoil(pipeline.model.diffloss.net.final_layer),
    DECODER: lambda pipeline: spoil(pipeline.vae.decoder.conv_in),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("smooth", [True, False])
def test_the_first_part_is_named_once(part, smooth):
    pipeline = random_pipeline("tiny", device="cpu", dtype="bfloat16")
    PARTS[part](pipeline)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pipeline("a fox", more_smooth=smooth, quiet=True)
    (message,) = [str(each.message) for each in said]
    assert message.startswith(f"{part} put out numbers that are not finite in bfloat16")
    assert message.endswith("draw in float32 (dtype='float32')")


@pytest.mark.parametrize("use_engine", [True, False])
def test_it_is_asked_once_and_changes_nothing(use_engine, monkeypatch):
    pipeline = random_pipeline("tiny", device="cpu", dtype="float32")
    pipeline.use_engine = use_engine
    asked = []
    first = "hart.pipeline.finite.FiniteWatch.first"
    monkeypatch.setattr(first, lambda watch: asked.append([part for part, _ in watch._sums]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline("a fox", quiet=True)
    stages = [f"stage {si} of the transformer" for si in range(6)]
    assert asked == [[TEXT, *stages, RESIDUAL, DECODER]]
