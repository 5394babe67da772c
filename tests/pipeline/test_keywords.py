"""What users of diffusers type is taken, and what has no meaning here is answered."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from hart.pipeline import HARTPipeline, VARPipeline
from tests.pipeline.checkpoint_folder import PATCH_NUMS, STAGES

PROMPT = "a red fox"


def pixels(image) -> np.ndarray:
    return np.asarray(image).astype(int)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["prompt", "prompts"])
def test_prompt_and_guidance_have_diffusers_names(pipeline, name):
    expected = pipeline(PROMPT, cfg_scale=2.0).images[0]
    drawn = pipeline(**{name: PROMPT}, guidance_scale=2.0, negative_prompt=None).images[0]
    assert np.array_equal(pixels(drawn), pixels(expected))


def test_every_image_may_have_a_seed_of_its_own(pipeline):
    output = pipeline([PROMPT, "two boats"], seed=[9, np.int64(4)])
    assert [result.seed for result in output.results] == [9, 4]
    with pytest.raises(ValueError, match="one entry per image, 2; got 3"):
        pipeline.stream(PROMPT, num_images_per_prompt=2, seed=[1, 2, 3])
    with pytest.raises(ValueError, match=r"seed\[1\] must be an integer from 0, got -1"):
        pipeline.stream(PROMPT, seed=[1, -1])


def test_a_random_seed_is_told_and_draws_the_image_again(pipeline):
    first, second = (pipeline(PROMPT, seed=None).results[0] for _ in range(2))
    assert first.seed != second.seed
    again = pipeline(PROMPT, seed=first.seed).images[0]
    assert np.array_equal(pixels(again), pixels(first.image))


def test_a_generator_decides_what_is_drawn_and_goes_on(pipeline):
    one = generator(3)
    first, second = (pipeline(PROMPT, generator=one).results[0].seed for _ in range(2))
    assert first != second
    assert pipeline(PROMPT, generator=generator(3)).results[0].seed == first
    several = pipeline(PROMPT, num_images_per_prompt=2, generator=[generator(8), generator(3)])
    assert several.results[1].seed == first
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator .* got 5"):
        pipeline.stream(PROMPT, generator=5)


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 1, "generator": generator(1)},
        {"prompts": "a boat"},
        {"cfg_scale": 1.0, "guidance_scale": 1.0},
    ],
    ids=" and ".join,
)
def test_nothing_is_given_twice(pipeline, given):
    with pytest.raises(TypeError, match=r"exclude each other|given twice"):
        pipeline.stream(PROMPT, **given)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("guidence_scale", "did you mean 'guidance_scale'"),
        ("num_image_per_prompt", "known are num_images_per_prompt, seed, guidance_scale"),
        ("negative_prompt", "no meaning here: guidance"),
        ("height", "fixes the size"),
    ],
)
def test_an_unknown_argument_is_answered(pipeline, name, words):
    with pytest.raises(TypeError, match=words) as caught:
        pipeline.stream(PROMPT, **{name: 1})
    assert name in str(caught.value)


def test_arrays_and_tensors_are_the_pictures_unrounded(pipeline):
    pictures = np.stack([pixels(image) for image in pipeline([PROMPT, "two boats"]).images])
    arrays = pipeline([PROMPT, "two boats"], output_type="np").images
    tensors = pipeline([PROMPT, "two boats"], output_type="pt").images
    assert (arrays.dtype, arrays.shape) == (np.float32, pictures.shape)
    assert torch.from_numpy(arrays).permute(0, 3, 1, 2).equal(tensors)
    assert np.array_equal((arrays * 255).astype(int), pictures)
    with pytest.raises(ValueError, match="output_type is 'latent'; allowed are pil, np, pt"):
        pipeline.stream(PROMPT, output_type="latent")


def test_the_step_callback_sees_every_stage_with_its_feature_map(pipeline):
    seen = []

    def on_end(pipe, i, t, tensors):
        seen.append((pipe, i, t, tuple(tensors["f_hat"].shape)))
        return tensors

    pipeline(PROMPT, callback_on_step_end=on_end, callback_on_step_end_tensor_inputs=["f_hat"])
    assert [(i, t) for _, i, t, _ in seen] == list(enumerate(STAGES))
    assert {(pipe, shape[2]) for pipe, _, _, shape in seen} == {(pipeline, PATCH_NUMS[-1])}
    with pytest.raises(ValueError, match="names 'latents'; allowed is f_hat"):
        pipeline.stream(PROMPT, callback_on_step_end_tensor_inputs=["latents"])


def test_an_interruption_leaves_the_picture_as_it_is_then(pipeline):
    shown = []
    list(pipeline.stream(PROMPT, preview=lambda preview: shown.append(preview.images[0])))

    def stop(pipe, i, t, tensors):
        pipe._interrupt = i == 2

    output = pipeline([PROMPT, "two boats"], batch_size=1, callback_on_step_end=stop)
    assert len(output.images) == 1
    assert np.array_equal(pixels(output.images[0]), pixels(shown[2]))
    assert len(output.results[0].stages_s) == 3
    with pytest.raises(ValueError, match="cannot be drawn again"):
        pipeline.redraw(output.results[0].metadata)
    assert len(pipeline([PROMPT, "two boats"]).images) == 2


@pytest.mark.parametrize("method", ["__call__", "stream"])
@pytest.mark.parametrize("kind", [HARTPipeline, VARPipeline])
def test_help_shows_the_options_with_their_defaults(kind, method):
    documented = getattr(kind, method)
    parameters = inspect.signature(documented).parameters
    assert parameters["guidance_scale"].default == kind.options_class.cfg_scale
    assert parameters["seed"].default == 1
    assert ("top_k" in parameters) == (kind is VARPipeline)
    if method == "stream":
        assert "guidance_scale: guidance scale (a number from 0; default" in documented.__doc__
