"""A pipeline is moved, taken apart, shown and given a cache as diffusers' are."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from hart.modules.networks.caching.config import CacheConfig
from hart.pipeline import HARTPipeline
from hart.pipeline.loading import lent_to, text_dtype
from tests.pipeline.test_keywords import PROMPT, pixels
from tests.tiny_models import fill

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "half": torch.float16}


@pytest.mark.parametrize(
    "place", [("cpu", "bf16"), (torch.bfloat16,), (torch.device("cpu"), "bfloat16")]
)
def test_moving_it_is_as_loading_it_there(pipeline, shared_checkpoint, place):
    pipeline(PROMPT)  # the engine has made its copies
    loaded = HARTPipeline.from_pretrained(
        shared_checkpoint, device="cpu", torch_dtype="bf16", system_prompt=""
    )
    assert pipeline.to(*place) is pipeline
    kinds = {
        p.dtype
        for part in (pipeline.model, pipeline.vae, pipeline.text_model)
        for p in part.parameters()
    }
    assert kinds == {pipeline.dtype} == {torch.bfloat16}
    expected = loaded(PROMPT).images[0]
    assert np.array_equal(pixels(pipeline(PROMPT).images[0]), pixels(expected))


def test_it_is_moved_to_what_is_there(pipeline):
    with pytest.raises(ValueError, match="device is 'abacus'"):
        pipeline.to("abacus")
    with pytest.raises(ValueError, match=r"dtype is torch.float64; allowed are float32"):
        pipeline.to(dtype=torch.float64)


@pytest.mark.parametrize("name", DTYPES)
def test_short_names_of_dtypes_are_taken(shared_checkpoint, name):
    pipeline = HARTPipeline.from_pretrained(shared_checkpoint, device="cpu", dtype=name)
    assert pipeline.dtype is DTYPES[name]
    model = type(pipeline.model).from_pretrained(shared_checkpoint / "llm", dtype=name)
    assert model.dtype is DTYPES[name]


def test_a_dtype_is_given_once_and_right(shared_checkpoint):
    with pytest.raises(TypeError, match="also as torch_dtype"):
        HARTPipeline.from_pretrained(shared_checkpoint, dtype="bf16", torch_dtype="bf16")
    with pytest.raises(ValueError, match="did you mean 'bfloat16'"):
        HARTPipeline.from_pretrained(shared_checkpoint, torch_dtype="bfloat")


def test_its_components_make_it_again(pipeline):
    again = HARTPipeline(**pipeline.components)
    expected = pipeline(PROMPT).images[0]
    assert np.array_equal(pixels(again(PROMPT).images[0]), pixels(expected))


def test_a_cache_is_enabled_once(pipeline):
    assert not pipeline.is_cache_enabled
    pipeline.enable_cache("original")
    assert pipeline.is_cache_enabled
    with pytest.raises(ValueError, match=r"enabled already: CacheConfig\(skip 36, 64"):
        pipeline.transformer.enable_cache(CacheConfig([64], [36]))
    pipeline.disable_cache()
    assert not pipeline.transformer.is_cache_enabled
    with pytest.warns(UserWarning, match="not enabled"):
        pipeline.disable_cache()
    pipeline.model.use_cache = False
    pipeline.enable_cache(CacheConfig([64], [36]))
    assert pipeline.is_cache_enabled
    with pytest.raises(ValueError, match="did you mean 'original'"):
        pipeline.set_cache_config("orginal")


def test_the_summary_says_in_words_what_was_saved(pipeline):
    assert pipeline.cache_summary() == "caching: off"
    pipeline.set_cache_config("original")
    fill(pipeline.model, 1.0)
    output = pipeline(PROMPT)
    share = f"{100 * output.statistics['saved_share']:.0f} %"
    expected = f"caching: {share} of the transformer's work saved: {share} reuse; 10 of 36 modules"
    assert pipeline.cache_summary().startswith(expected)


def test_the_progress_bar_is_configured(pipeline, capsys):
    pipeline.set_progress_bar_config(disable=False, desc="mine")
    pipeline(PROMPT)
    assert "6/6" in capsys.readouterr().err
    pipeline.set_progress_bar_config(disable=True)
    pipeline(PROMPT)
    assert capsys.readouterr().err == ""


def test_an_output_is_the_sequence_of_its_images(pipeline):
    output = pipeline([PROMPT, "two <boats>"], seed=4)
    assert list(output) == output.images
    assert (output[0], len(output), output.seeds) == (output.images[0], 2, [4, 5])


def test_what_is_shown_is_short_and_says_what_matters(pipeline):
    assert repr(pipeline).endswith("float32 on cpu, CacheConfig(off))")
    output = pipeline([PROMPT, "two <boats>"], seed=4)
    assert repr(output).startswith("HARTPipelineOutput(2 images, seeds [4, 5], ")
    assert len(repr(output.results[0])) < 500
    assert output._repr_html_().count("<img src=") == 2
    assert "two &lt;boats&gt;, seed 5" in output._repr_html_()
    shown = Image.open(io.BytesIO(output.results[1]._repr_png_()))
    assert np.array_equal(pixels(shown), pixels(output.images[1]))


def test_an_offloaded_text_encoder_is_lent_to_the_device_to_encode(pipeline, monkeypatch):
    expected, lent = pipeline(PROMPT).images[0], []

    def watched(module, device):
        lent.append((module, device))
        return lent_to(module, device)

    monkeypatch.setattr("hart.pipeline.text.lent_to", watched)
    pipeline(PROMPT)
    assert lent == []
    pipeline.enable_model_cpu_offload("cpu")
    assert np.array_equal(pixels(pipeline.to("cpu")(PROMPT).images[0]), pixels(expected))
    assert lent == [(pipeline.text_model, torch.device("cpu"))]


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_lent_comes_back_as_it_was(pipeline, fails, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor.clone())
    module = pipeline.text_model
    tensors = [*module.parameters(), *module.buffers()]
    before = [(t.data_ptr(), t.dtype, t.device.type) for t in tensors]
    error = pytest.raises(RuntimeError) if fails else contextlib.nullcontext()
    with error, lent_to(module, torch.device("cpu")):
        assert all(t.data_ptr() != where for t, (where, *_) in zip(tensors, before, strict=True))
        if fails:
            raise RuntimeError
    assert [(t.data_ptr(), t.dtype, t.device.type) for t in tensors] == before


def test_the_text_encoder_is_never_in_float16(checkpoint, pipeline):
    loaded = HARTPipeline.from_pretrained(checkpoint, device="cpu", dtype="float16")
    for each in (loaded, pipeline.to("float16")):
        assert each.dtype is torch.float16
        assert {p.dtype for p in each.text_model.parameters()} == {torch.bfloat16}
    cuda = torch.device("cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
        assert text_dtype(torch.float16, cuda) is torch.float32
        assert text_dtype(torch.float32, cuda) is torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_offloaded_text_encoder_is_on_the_cpu_while_the_transformer_draws(pipeline):
    expected = pipeline.to("cuda")(PROMPT).images[0]
    pipeline.enable_model_cpu_offload()
    places = []
    drawn = pipeline(
        PROMPT,
        callback=lambda *_: places.append(
            [next(p.parameters()).device.type for p in (pipeline.text_model, pipeline.transformer)]
        ),
    )
    assert places == [["cpu", "cuda"]] * len(places)
    assert pipeline.device.type == "cuda"
    assert np.array_equal(pixels(drawn.images[0]), pixels(expected))
