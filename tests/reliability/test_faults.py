"""An exception at any place of a generation leaves nothing behind.

Injected in turn into the text encoder, the attention and the MLP of every stage, the diffusion
head, the decoder and the saving of the image, in every mode. The image drawn next on the same
model is that of a fresh process, byte for byte, and so is what it leaves in the statistics.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from hart.modules.models.transformer.generation_state import Generation
from hart.utils.images import save_png
from tests.pipeline.checkpoint_folder import PATCH_NUMS
from tests.reliability.modes import ENGINE_MODES, MODES, draw, enter, traces

pytestmark = pytest.mark.slow

# Between two others, so that stored outputs and keys are there before and missing after. Its
# similarities are below every threshold: it computes at every stage.
LAYER = 1
STAGE_FAULTS = [f"stage {si} {site}" for si in range(len(PATCH_NUMS)) for site in ("attn", "ffn")]
PLACES = ["text", *STAGE_FAULTS, "diffusion", "decode", "save"]
FAULTS = [(mode, place) for mode in MODES for place in PLACES]


class InjectedError(Exception):
    """What the tests raise."""


@pytest.fixture(scope="module")
def fresh(checkpoint, tmp_path_factory):
    """Images and statistics of a process that draws each mode's image first and last."""
    folder = tmp_path_factory.mktemp("fresh")
    command = [sys.executable, "-m", "tests.reliability.modes", str(checkpoint), str(folder)]
    threads = str(torch.get_num_threads())  # sums are made in another order with another number
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": threads})
    return folder


@contextlib.contextmanager
def fault(pipeline, place: str):
    """Make one place fail once it has done its work."""
    if place == "save":
        yield
        return
    model = pipeline.model
    kind, si, site = [*place.split(), 0, ""][:3]
    block = model.blocks[LAYER]
    module = {
        "text": pipeline.text_model,
        "stage": block.ffn if site == "ffn" else block.attn.proj,  # the engine calls only this
        "diffusion": model.diffloss.net.final_layer,
        "decode": model.vae_proxy[0].decoder.mid,
    }[kind]
    finished = 0

    def finish_stage(run: Generation, stage: int) -> None:
        nonlocal finished
        finish(run, stage)
        finished += 1

    def fail(*_):
        if kind != "stage" or finished == int(si):
            raise InjectedError(place)

    finish = Generation.finish_stage
    handle = module.register_forward_hook(fail)
    Generation.finish_stage = finish_stage
    try:
        yield
    finally:
        handle.remove()
        Generation.finish_stage = finish


@pytest.mark.parametrize(("mode", "place"), FAULTS, ids=lambda value: value.replace(" ", "-"))
def test_the_next_image_is_that_of_a_fresh_process(
    pipeline, fresh, mode, place, tmp_path, monkeypatch
):
    enter(pipeline, mode)
    before = traces(pipeline)
    with contextlib.ExitStack() as stack:
        stack.enter_context(fault(pipeline, place))
        if place != "save":
            stack.enter_context(pytest.raises(InjectedError, match=place))
        image = draw(pipeline)
    if place == "save":
        pipeline.model.reset_cache_statistics()
        enter(pipeline, mode)
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "save", _full_disk)
            with pytest.raises(OSError, match="No space left"):
                save_png(image, tmp_path / "image.png")
        assert not list(tmp_path.iterdir())
    if place == "decode":  # the generation itself was finished, and counts
        assert traces(pipeline) == json.loads((fresh / f"{mode}.json").read_text())
        enter(pipeline, mode)
    assert traces(pipeline) == before
    assert pipeline.model.cache_attn == [None] * pipeline.model.depth
    image = draw(pipeline)
    with Image.open(fresh / f"{mode}.png") as expected:
        assert image.tobytes() == expected.tobytes()
    assert traces(pipeline) == json.loads((fresh / f"{mode}.json").read_text())
    save_png(image, tmp_path / "image.png")


def _full_disk(image, path, **options):
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_every_place_was_made_to_fail_in_every_mode():
    assert len(PLACES) == 1 + 2 * len(PATCH_NUMS) + 3
    assert len(FAULTS) == len(set(FAULTS)) == 112


@pytest.mark.parametrize("mode", ENGINE_MODES)
def test_the_engine_modes_are_what_their_names_say(pipeline, mode):
    enter(pipeline, mode)
    draw(pipeline)
    statistics = traces(pipeline)
    reused = sum(site["reused"] for site in statistics["totals"].values())
    assert (reused > 0) == (mode in ("engine-merged", "engine-adaptive"))
    assert bool(statistics["thresholds"]) == (mode == "engine-adaptive")
