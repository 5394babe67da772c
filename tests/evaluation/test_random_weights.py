"""Pipelines without a checkpoint: the right sizes, the same every time, finite everywhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hart.evaluation.random_weights import (
    RANDOM_SHAPES,
    WordTokenizer,
    assumed_similarity,
    random_config,
    random_pipeline,
)
from hart.evaluation.timing import has_text_encoder
from hart.modules.models.autoencoder import HARTAutoEncoder, HARTAutoEncoderConfig
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.models.transformer.var_transformer_c2i import VARForC2I
from hart.pipeline import HARTPipeline
from tests.copies import copied
from tests.golden_data import GOLDEN

MANIFEST = GOLDEN / "manifest-0.7b"
PROMPTS = ["a red fox", "two boats"]


@copied
def tiny(**options) -> HARTPipeline:
    return random_pipeline("tiny", device="cpu", **options)


def pixels(pipeline, **options) -> np.ndarray:
    return np.stack(
        [np.asarray(image) for image in pipeline(PROMPTS, quiet=True, **options).images]
    )


def test_the_large_shape_is_the_published_one():
    manifest = json.loads((MANIFEST / "transformer.json").read_text())
    with torch.device("meta"):
        model = HARTForT2I(random_config("0.7b-1024"))
    found = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {name: about["shape"] for name, about in manifest["tensors"].items()}
    del expected["attn_bias_for_masking"]
    assert found == expected
    assert [model.num_heads, list(model.patch_nums)] == [
        manifest["config"]["num_heads"],
        manifest["config"]["patch_nums"],
    ]


def test_the_large_shape_has_the_published_autoencoder():
    manifest = json.loads((MANIFEST / "autoencoder.json").read_text())
    fields = RANDOM_SHAPES["0.7b-1024"].autoencoder
    with torch.device("meta"):
        vae = HARTAutoEncoder(HARTAutoEncoderConfig(quantizer_type="var_hybrid", **fields))
    count = sum(parameter.numel() for parameter in vae.parameters())
    assert count == manifest["parameter_counts"]["vae"]


def test_an_unknown_shape_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'7b'.*0\.7b-1024, tiny"):
        random_pipeline("7b")


def test_the_seed_decides_weights_and_text_features():
    first, again, other = (random_pipeline("tiny", seed, "cpu") for seed in (1, 1, 2))
    assert first.model.weight_fingerprint() == again.model.weight_fingerprint()
    assert first.model.weight_fingerprint() != other.model.weight_fingerprint()
    assert (pixels(first, seed=3) == pixels(again, seed=3)).all()
    assert (pixels(first, seed=3) != pixels(other, seed=3)).any()


def test_the_prompt_changes_the_image():
    pipeline = tiny()
    first, second = pipeline(PROMPTS, quiet=True).images
    same_seed = pipeline([PROMPTS[0]], seed=1, quiet=True).images[0]
    assert (np.asarray(second) != np.asarray(same_seed)).any()
    assert first.size == second.size == (14, 14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_weights_are_in_the_requested_dtype_and_finite(dtype):
    pipeline = random_pipeline("tiny", device="cpu", dtype=dtype)
    vae = pipeline.model.vae_proxy[0]
    tensors = [*pipeline.model.parameters(), *vae.parameters(), *vae.buffers()]
    assert {tensor.dtype for tensor in tensors} == {dtype}
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert pixels(pipeline).std() > 5  # not one colour, so no NaN shown as black


def test_other_dtypes_have_the_same_weights_up_to_rounding():
    full, half = (
        random_pipeline("tiny", 1, "cpu", dtype).model.head.weight
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.equal(full.bfloat16())


def test_the_stages_of_positions_survive_construction_without_memory():
    model = tiny().model
    assert model.lvl_1L.equal(model._levels())


def test_there_is_no_text_encoder():
    assert not has_text_encoder(tiny())


def test_words_become_ids_that_never_mean_padding():
    tokenizer = WordTokenizer()
    ids = tokenizer("a b a", max_length=5, padding="max_length", truncation=True).input_ids
    assert ids[0] == ids[2] != ids[1]
    assert ids[3:] == [0, 0]
    assert 0 not in ids[:3]
    cut = tokenizer("a b c", max_length=2, truncation=True, return_tensors="pt").input_ids
    assert cut.shape == (1, 2)


def test_an_assumed_similarity_decides_every_transition_alike():
    model = tiny(cache="original").model
    model.similarity = assumed_similarity(model, 0.75)
    plan = model.decision_plan()
    assert (plan.reused("attn"), plan.reused("mlp")) == (2 * model.depth, 2 * (model.depth - 1))
    model.similarity = assumed_similarity(model, 0.7)  # reuse must exceed the threshold
    assert not model.decision_plan().reuses_anything


@pytest.mark.parametrize("similarity", [0.65, 0.9, 1.0])
def test_no_image_adapts_its_threshold_to_an_assumed_similarity(similarity):
    pipeline = tiny(cache="ultra-fast")
    model = pipeline.model
    model.similarity = assumed_similarity(model, similarity)
    statistics = pipeline("x", seed=1, quiet=True).statistics
    assert statistics["thresholds"] == {}
    for site in ("attn", "mlp"):
        assert 0 < statistics["totals"][site]["reused"] == model.decision_plan().reused(site)


@pytest.mark.parametrize("value", [1.01, -1.5, float("nan"), "0.5"])
def test_what_is_no_similarity_is_refused(value):
    model = tiny().model
    with pytest.raises(ValueError, match=r"within \[-1, 1\]"):
        assumed_similarity(model, value)


def test_the_shape_of_var_is_the_published_one():
    config = random_config("var-d16-256")
    assert config.patch_nums == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    with torch.device("meta"):
        model = VARForC2I(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 310_283_520


def test_classes_are_drawn_with_random_weights_of_vars_shape():
    first, again = (random_pipeline("var-tiny", 3, "cpu") for _ in range(2))
    images = [np.asarray(p([1, 2], quiet=True).images[1]) for p in (first, again)]
    assert images[0].shape == (12, 12, 3)
    assert np.array_equal(*images)
    assert images[0].std() > 1
