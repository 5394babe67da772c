"""What a pipeline is lent stays as it was: weights, formats, layouts, hooks."""

from __future__ import annotations

import contextlib
import copy

import torch

from hart.engine import Engine, EngineDecoder
from hart.pipeline.options import ImageRequest
from tests.product import product
from tests.reliability.lent import (
    PRESETS,
    PROMPT,
    everything,
    expected_picture,
    parts,
    picture,
    tiny_pipeline,
)
from tests.tiny_models import fill, text
from tests.var.test_var_model import tiny_var

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MODES = {
    "grad": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


@product(1, dtype=DTYPES[1:] + DTYPES[:1], engine=[True, False], mode=[*MODES])
def test_nothing_of_what_was_lent_changes_and_it_can_be_trained(dtype, engine, mode):
    pipeline = tiny_pipeline(dtype, engine=engine)
    before, similarity = everything(parts(pipeline)), copy.copy(pipeline.model.similarity)
    with MODES[mode]():
        use_in_every_way(pipeline)
        assert everything(parts(pipeline)) == before
        pipeline.model.similarity = similarity
        for preset in PRESETS:  # no picture depends on an earlier one
            assert picture(pipeline, preset) == expected_picture(dtype, preset, engine), preset
    pipeline.use_engine = not engine
    assert picture(pipeline, "no-cache") == expected_picture(dtype, "no-cache", not engine)
    assert everything(parts(pipeline)) == before
    train_a_step(pipeline)


def use_in_every_way(pipeline) -> None:
    """Calibrate, preview, decode, and draw as upstream does."""
    model, options = pipeline.model, {"seed": 1, "quiet": True}
    for _ in pipeline.stream(PROMPT, preview=lambda _: None, num_maskgit_iters=2, **options):
        pass
    pipeline.calibrate(PROMPT, **options)
    pipeline.tiled_decode = True
    pipeline.draw_together([ImageRequest(0, PROMPT, 1)])
    EngineDecoder().decode_in_tiles(
        model, torch.zeros(1, model.Cvae, 7, 7, dtype=model.dtype), tile=4, overlap=1
    )
    pipeline.tiled_decode = False
    model.autoregressive_infer_cfg(1, g_seed=3, more_smooth=True, **text(model, 1))


def train_a_step(pipeline) -> None:
    """One step of stochastic gradient descent on each part; every part learns something."""
    modules = parts(pipeline)
    model, vae, text_model = modules.values()
    generator = torch.Generator().manual_seed(0)
    sides = model.patch_nums
    ids = [torch.randint(model.V, (2, s * s), generator=generator) for s in sides]
    context = text(model, 2)
    _, diffusion, _ = model.train()(
        context["label_B"],
        vae.quantize.idxBl_to_var_input(ids, sides),
        context["context_position_ids"],
        context["context_mask"],
        torch.randn(2, sides[-1] ** 2, model.Cvae, generator=generator),
        ids[-1],
    )
    logits = model.get_logits(
        torch.randn(2, 3, model.C, generator=generator).to(model.dtype),
        model.embed_context(context["label_B"]),
    )
    images = torch.rand(2, 3, 14, 14, generator=generator) * 2 - 1
    rebuilt = vae.train()(images)["out"]
    features = text_model.train()(torch.tensor([[1, 2, 3]])).last_hidden_state
    losses = (diffusion, logits, rebuilt, features)
    sum(loss.float().square().mean() for loss in losses).backward()
    for name, module in modules.items():
        learnt = [p for p in module.parameters() if p.grad is not None]
        assert any(p.grad.any() for p in learnt), name
        torch.optim.SGD(learnt, lr=1e-3).step()


@product(1, mode=[*MODES])
def test_vars_parts_stay_as_they_were_too(mode):

    model = tiny_var()
    fill(model, 0.95)
    modules = {"transformer": model, "autoencoder": model.vae_proxy[0]}
    before = everything(modules)
    with MODES[mode]():
        for preset in PRESETS:
            model.set_cache_config(preset)
            for steps in (None, Engine(model)):
                EngineDecoder().decode(
                    model, model.generate_feature_map(2, 1, g_seed=0, steps=steps)
                )
    assert everything(modules) == before


def test_copies_convert_nothing_of_each_other():
    pipeline = tiny_pipeline()
    before, expected = everything(parts(pipeline)), picture(pipeline)
    for convert in ("half", "bfloat16", "double"):
        twin = copy.deepcopy(pipeline)
        getattr(twin.model, convert)()
        assert twin.model.vae_proxy[0].dtype == twin.model.dtype != torch.float32
    assert picture(copy.deepcopy(pipeline)) == expected
    assert everything(parts(pipeline)) == before
    assert picture(pipeline) == expected


def test_a_table_that_two_models_were_given_is_calibrated_by_none():
    one, other = tiny_pipeline(), tiny_pipeline()
    table = one.model.similarity = other.model.similarity
    before = copy.deepcopy(table)
    one.calibrate(PROMPT, quiet=True)
    assert one.model.similarity.images == table.images + 1
    assert other.model.similarity is table
    assert table == before
